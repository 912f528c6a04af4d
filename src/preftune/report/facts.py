"""What was compared, on what, with what: the facts of `study.json` in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..evidence import StudyRecord

Fact = tuple[str, Any]
MANY = 8  # numbers that are all told

DATA_WORDS = {
    "source": "source",
    "sha256": "content hash (SHA-256)",
    "tokens_sha256": "hash of the tokens",
    "rows": "rows read",
    "ballots_train": "ballots to train on",
    "votes_train": "votes on them",
    "ballots_reached": "of these, reached by the budget",
    "ballots_eval": "held-out ballots",
    "votes_eval": "votes on them",
    "prompts_eval": "held-out prompts sampled from",
}


def compared(study: StudyRecord) -> str:
    """What was compared, in a line."""
    info, data = study.info, study.info["data"]
    model = str(info["model"].get("name", "")).rstrip("/").rpartition("/")[2]
    parameters = info["model"].get("parameters")
    size = f" ({_rounded(parameters)} parameters)" if isinstance(parameters, int) else ""
    steps = max((row.step for row in study.trained()), default=0)
    batch = info["settings"].get("batch_size")
    return " · ".join(
        part
        for part in (
            f"{model}{size}" if model else "",
            ", ".join(info["arms"]),
            _betas(study),
            "label noise " + ", ".join(f"{noise:g}" for noise in study.noises()) if any(study.noises()) else "",
            ("seed " if len(info["seeds"]) == 1 else "seeds ") + _several(info["seeds"]),
            _counted(data, "votes_train", "training votes on") + _counted(data, "ballots_train", "ballots"),
            f"{steps} steps" + (f" of {batch} ballots" if batch else "") if steps else "",
            _counted(data, "prompts_eval", "held-out prompts"),
        )
        if part
    )


def _betas(study: StudyRecord) -> str:
    """`β 0.1, 0.5`, or each arm's own where they differ: `β 0.1, 0.5 (dpo), 0.02, 0.1 (ipo)`."""
    own = {arm: [beta for beta in study.betas_of(arm) if beta is not None] for arm in study.info["arms"]}
    told = {arm: _several(sorted(betas)) for arm, betas in own.items() if betas}
    if len(set(told.values())) > 1:
        return "β " + ", ".join(f"{betas} ({arm})" for arm, betas in told.items())
    return "β " + next(iter(told.values())) if told else ""


def _several(values: Sequence[float]) -> str:
    """Numbers with commas between them; of many, how many there are and between which."""
    if len(values) <= MANY:
        return ", ".join(f"{value:g}" for value in values)
    return f"{min(values):g} to {max(values):g} ({len(values)} of them)"


def _rounded(count: int) -> str:
    return f"{count / 1e6:,.0f} million" if count >= 1e6 else f"{count:,}"


def _counted(data: Mapping[str, Any], name: str, words: str) -> str:
    return f"{data[name]:,} {words} " if isinstance(data.get(name), int) else ""


def facts(mapping: Mapping[str, Any], words: Mapping[str, str] = MappingProxyType({})) -> list[Fact]:
    """(what, value) of every entry, those in `words` first and so named; counts by reason get a line for each."""
    known = [(name, words[name]) for name in words if name in mapping]
    others = [(name, name.replace("_", " ")) for name in mapping if name not in words]
    return [line for name, label in known + others for line in _flat(label, mapping[name])]


def _flat(label: str, value: Any) -> list[Fact]:
    if isinstance(value, Mapping):
        return [line for name, item in value.items() for line in _flat(f"{label}: {name}", item)] or [(label, "none")]
    return [(label, ", ".join(map(str, value)) if isinstance(value, list) else value)]


def duration(seconds: Mapping[str, Any]) -> str:
    """How long it took in all, in the largest unit that fits; "" where nobody says."""
    total = sum(value for value in seconds.values() if isinstance(value, int | float))
    for unit, size in (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0)):
        if total >= 2 * size:
            return f"{total / size:.3g} {unit}"
    return ""


def rate_rows(study: StudyRecord) -> list[tuple[str, str, str]]:
    """(arm, learning rate, why) of the arms whose rate was chosen in pilots."""
    pilots = study.info["pilots"].items()
    return [(arm, f"{told['lr']:g}", f"{told['reason']}; of {len(told['tried'])} pilots") for arm, told in pilots]


def look_rows(study: StudyRecord) -> list[dict[str, str]]:
    """The predeclared looks that are done: what each had, might spend, and said."""
    return [
        {
            "seeds": str(look["seeds"]),
            "prompts": str(look["prompts"]),
            "level": f"{100 * look['alpha']:.3g}%",
            "hours": f"{look['hours']:.2g}" if "hours" in look else "–",
            "said": look.get("sentence", ""),
        }
        for look in study.info["looks"].get("done", ())
    ]
