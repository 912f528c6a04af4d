"""All layouts, the more special ones first: what the reader goes by, and what docs/FORMATS.md shows."""

from __future__ import annotations

from .adapting import ALIASES, RATINGS, any_word, binary, chat_then_binary, in_order, last_reply, one_rating, status
from .layout import ASKED, BREAD, NILE, Layout, Q, says
from .numbered import STEMS
from .public import PUBLIC

ENDS = (
    *(("_a", "_b"), ("_A", "_B"), ("_1", "_2"), ("1", "2"), ("_0", "_1"), ("-1", "-2"), ("A", "B")),
    ("_left", "_right"),
)
PAIRS = tuple({"a": stem + one, "b": stem + two} for stem in STEMS for one, two in ENDS)
GROUPS = ("replies", "completions", "answers", "generations", "candidates", "outputs", "summaries", "texts")
GIVEN = ("label", "winner", "first_wins", "better_index", "toward_second", "toward_first", "score_a", "score_b", "by")
ANSWERS = ("completion", "answer", "output", "generation")
OF_CHOSEN = ("label", "score_a", "score_b", "by")
CHOSEN = {"chosen": "chosen", "rejected": "rejected"}

OWN = (
    Layout(
        "canonical",
        "`p` is the share of votes for `a` over `b` (a tie is ½), `weight` how much they count; `a` and `b` count "
        "responses from 0. `ended` says whether a response came to its own end; all did if it is left out. "
        "`annotations` are the single judgements that the votes are made of, if they are known: `winner` is a, b, tie "
        "or both_bad, `by` is who said so, and `asked` is unsure where the pair was chosen for that.",
        {"responses": "responses", "ranks": "ranks?", "scores": "scores?"},
        (
            {
                "id": "q1",
                "source": "mine",
                "prompt": Q,
                "responses": [NILE, BREAD],
                "votes": [{"a": 0, "b": 1, "p": 1.0, "weight": 1.0}],
                "ended": [True, True],
                "annotations": [{"a": 0, "b": 1, "winner": "a", "by": "ann"}],
            },
        ),
        beside=("votes",),
        takes=GIVEN,
    ),
    Layout(
        "chosen and rejected, with the scores that the pair was made from",
        "Equal scores are a tie, whatever is called chosen (counted apart).",
        {**CHOSEN, "score_a": "score_chosen", "score_b": "score_rejected"},
        (
            {
                "prompt": Q,
                "chosen": [*ASKED, says(NILE)],
                "rejected": [*ASKED, says(BREAD)],
                "score_chosen": 8.5,
                "score_rejected": 3.0,
            },
        ),
        "HuggingFaceH4/ultrafeedback_binarized",
        variants=({**CHOSEN, "score_a": "chosen_score", "score_b": "rejected_score"},),
        takes=OF_CHOSEN,
    ),
    Layout(
        "chosen and rejected, with a status",
        "A `status` of tie is a tie; `swapped` rows are swapped already.",
        {**CHOSEN, "status": "status"},
        ({"system": "", "input": Q, "chosen": NILE, "rejected": BREAD, "status": "swapped", "rating": [9.0, 2.0]},),
        "argilla/distilabel-intel-orca-dpo-pairs",
        beside=("rating",),
        adapt=status,
    ),
    Layout(
        "whole answers beside steps",
        "`chosen` and `rejected` are single steps there; the whole answers are read.",
        {"chosen": "full_chosen", "rejected": "full_rejected"},
        (
            {
                "prompt": Q,
                "initial_reason_steps": "Well,",
                "chosen": " the Nile.",
                "rejected": " bread.",
                "full_chosen": NILE,
                "full_rejected": BREAD,
            },
        ),
        "xinlai/Math-Step-DPO-10K",
    ),
    Layout(
        "chosen and rejected",
        "Each is a text, a chat, one message, a whole transcript, or a list of several responses: then every chosen "
        "one has a vote over every rejected one. What both sides share is the prompt where none is stated. `chosen` "
        "wins with p = 1, unless `votes`, `p` or `label` stand beside it: they may say how sure it is, and that "
        "`chosen` lost is an error. Ratings beside them are not read.",
        CHOSEN,
        (
            {"prompt": Q, "chosen": NILE, "rejected": BREAD},
            {"instruction": "Translate.", "input": "pain", "chosen": "bread", "rejected": "pain"},
            {"system": "Be brief.", "question": Q, "chosen": "Nile.", "rejected": "There are many.", "p": 0.75},
            {"prompt": Q, "chosen": NILE, "rejected": BREAD, "votes": {"a": 3, "b": 1}},
            {"prompt": Q, "chosen": [NILE, "Nile."], "rejected": [BREAD, "A car."]},
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant: The Nile.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant: Bread.",
            },
            {"prompt": "\n\nHuman: Name a river.\n\nAssistant:", "chosen": " The Nile.", "rejected": " Bread."},
            {"chosen": [*ASKED, says(NILE)], "rejected": [*ASKED, says(BREAD)]},
            {"prompt": ASKED, "chosen": [says(NILE)], "rejected": [says(BREAD)]},
            {"messages": ASKED, "chosen": says(NILE), "rejected": says(BREAD)},
            {
                "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": Q}],
                "chosen": {"from": "gpt", "value": NILE},
                "rejected": {"from": "gpt", "value": BREAD},
            },
        ),
        "TRL, Axolotl, LLaMA-Factory; Anthropic/hh-rlhf, Intel/orca_dpo_pairs, Skywork/Skywork-Reward-Preference-80K",
        takes=OF_CHOSEN,
    ),
    Layout(
        "chosen and rejected, under other names",
        "They mean the same.",
        {"chosen": "chosen_response", "rejected": "rejected_response"},
        (
            {
                "instruction": Q,
                "chosen_response": NILE,
                "rejected_response": BREAD,
                "chosen_avg_rating": 5.0,
                "rejected_avg_rating": 2.0,
            },
            {"question": Q, "response_j": NILE, "response_k": BREAD},
            {"chosen_conversations": [*ASKED, says(NILE)], "rejected_conversations": [*ASKED, says(BREAD)]},
            {"query": Q, "response": NILE, "rejected_response": BREAD},
        ),
        "argilla/ultrafeedback-binarized-preferences, lvwerra/stack-exchange-paired, torchtune, ms-swift",
        variants=(
            {"chosen": "response_j", "rejected": "response_k"},
            {"chosen": "chosen_conversations", "rejected": "rejected_conversations"},
            {"chosen": "chosen_messages", "rejected": "rejected_messages"},
            {"chosen": "preferred_output", "rejected": "non_preferred_output"},
            {"chosen": "response", "rejected": "rejected_response"},
            {"chosen": "response", "rejected": "rejected"},
        ),
    ),
    Layout(
        "a chat and a rejected response",
        "The chat ends with the chosen response.",
        {"messages": "messages", "rejected": "rejected_response"},
        ({"messages": [*ASKED, says(NILE)], "rejected_response": BREAD},),
        "ms-swift",
        variants=({"messages": "messages", "rejected": "rejected_messages"},),
        adapt=last_reply,
    ),
    Layout(
        "two responses and who won",
        "`label` is 1 (the first is preferred) or 2; `winner` is a, b, tie, both_bad, or the name of a column or of "
        "`model_a` or `model_b`; `p` is how sure; counted `votes` make one vote with `p = (a + tie/2)/n` and weight "
        "`n`. Of several, `votes` goes before `p` before `label`; if they name different winners, that is an error.",
        {"a": "a", "b": "b"},
        (
            {"prompt": Q, "a": BREAD, "b": NILE, "label": 2},
            {"prompt": Q, "a": NILE, "b": "The Rhine.", "p": 0.6},
            {"prompt": Q, "a": NILE, "b": BREAD, "votes": {"a": 3, "b": 0, "tie": 1}},
            {"prompt": Q, "response_1": BREAD, "response_2": NILE, "winner": "response_2"},
        ),
        "",
        variants=PAIRS,
        takes=(*GIVEN, *ALIASES, "best", "ranking", "ratings", "rewards"),
        adapt=any_word,
    ),
    Layout(
        "ranked or scored groups",
        "`ranks` (lower is better) or `scores` (higher is better) beside the responses, or in each of them beside its "
        "text. Every pair becomes a vote; equal values are a tie, and a response without a value is left out. Of "
        "several, `votes` go before `ranks` before `scores`; if they name different winners, that is an error.",
        {"responses": "responses", "ranks": "ranks|ranking?", "scores": "scores|ratings|rating|rewards?"},
        (
            {"prompt": Q, "responses": [NILE, "Water.", BREAD], "ranks": [1, 2, 3]},
            {"prompt": Q, "completions": [{"response": NILE, "score": 9}, {"response": BREAD, "score": 2.5}]},
            {"context": ASKED, "replies": [{"text": NILE, "rank": 0}, {"text": BREAD, "rank": 1}]},
            {"instruction": Q, "generations": [NILE, BREAD, "A car."], "ratings": [5, 1, None]},
            {
                "instruction": Q,
                "completions": [{"response": NILE, "overall_score": 8.5}, {"response": BREAD, "overall_score": 2.0}],
            },
            {"question": Q, "answers": [{"text": NILE, "pm_score": 5}, {"text": BREAD, "pm_score": 0}]},
            {
                "context": ASKED,
                "completions": [{"rank": 0, "completion": [says(NILE)]}, {"rank": 1, "completion": [says(BREAD)]}],
            },
        ),
        "berkeley-nest/Nectar, openbmb/UltraFeedback, HuggingFaceH4/stack-exchange-preferences, distilabel, NeMo-RL",
        variants=(
            *(
                {"responses": name, "ranks": "ranks|ranking?", "scores": "scores|ratings|rating|rewards?"}
                for name in GROUPS
            ),
            {"responses": "candidates_completions", "ranks": "ranks?"},
            {"responses": "all_generated_responses", "scores": "all_rm_scores"},
        ),
        takes=GIVEN,
    ),
)

ORDERED = (
    Layout(
        "outputs in order",
        "The first output is the best one, the last one the worst.",
        {"responses": "output"},
        ({"instruction": Q, "input": "", "output": [NILE, BREAD]},),
        "LLaMA-Factory (ranking data of its first versions)",
        beside=("instruction",),
        adapt=in_order,
    ),
)
SPREAD = (
    Layout(
        "unpaired feedback",
        "Single responses, each good or not. Those to one prompt are a ballot: every good one has a vote over every "
        "other one. A prompt whose responses are all alike is skipped and counted.",
        {"response": "completion", "desirable": "label"},
        (
            ({"prompt": Q, "completion": NILE, "label": True}, {"prompt": Q, "completion": BREAD, "label": False}),
            (
                {"instruction": Q, "output": NILE, "kto_tag": True},
                {"instruction": Q, "output": BREAD, "kto_tag": False},
            ),
        ),
        "TRL, HALOs, LLaMA-Factory (KTO)",
        variants=tuple(
            {"response": response, "desirable": good}
            for good in ("label", "kto_tag", "desirable")
            for response in ("completion", "response", "output", "answer")
        ),
        adapt=binary,
        rows="prompt",
    ),
    Layout(
        "unpaired feedback on chats",
        "The same, where the chat ends with the response.",
        {"response": "messages", "desirable": "label"},
        (({"messages": [*ASKED, says(NILE)], "label": True}, {"messages": [*ASKED, says(BREAD)], "label": False}),),
        "ms-swift, LLaMA-Factory (KTO)",
        variants=(
            {"response": "conversations", "desirable": "kto_tag"},
            {"response": "messages", "desirable": "kto_tag"},
            {"response": "conversations", "desirable": "label"},
        ),
        adapt=chat_then_binary,
        rows="prompt",
    ),
    Layout(
        "rated responses, one a row",
        "All rows of one prompt are a ballot; a higher score wins, equal scores are a tie. Of HelpSteer's five ratings "
        "`helpfulness` counts.",
        {"response": "response", "score": "helpfulness"},
        (
            ({"prompt": Q, "response": NILE, "helpfulness": 4}, {"prompt": Q, "response": BREAD, "helpfulness": 0}),
            ({"question": Q, "answer": NILE, "score": 0.9}, {"question": Q, "answer": BREAD, "score": 0.1}),
        ),
        "nvidia/HelpSteer, nvidia/HelpSteer2 (ratings)",
        variants=tuple(
            {"response": response, "score": score}
            for score in ("score", *RATINGS)
            for response in ("response", *ANSWERS)
        ),
        takes=("score", *RATINGS),
        adapt=one_rating,
        rows="prompt",
    ),
    Layout(
        "ranked responses, one a row",
        "All rows of one prompt are a ballot; a lower rank wins.",
        {"response": "response", "rank": "rank"},
        (({"prompt": Q, "response": BREAD, "rank": 2}, {"prompt": Q, "response": NILE, "rank": 1}),),
        variants=tuple({"response": response, "rank": "rank"} for response in ANSWERS),
        rows="prompt",
    ),
    Layout(
        "OASST messages",
        "Every message with two or more ranked replies is a ballot; rank 0 is the best. Replies of the user are "
        "skipped.",
        {"id": "message_id", "parent": "parent_id", "text": "text", "role": "role", "rank": "rank?"},
        (
            (
                {"message_id": "m1", "parent_id": None, "text": Q, "role": "prompter", "rank": None},
                {"message_id": "m2", "parent_id": "m1", "text": NILE, "role": "assistant", "rank": 0},
                {"message_id": "m3", "parent_id": "m1", "text": BREAD, "role": "assistant", "rank": 1},
            ),
        ),
        "OpenAssistant/oasst1, OpenAssistant/oasst2",
        rows="tree",
    ),
    Layout(
        "OASST trees",
        "The same, with the replies inside of the message.",
        {"tree": "prompt", "id": "message_tree_id"},
        (
            {
                "message_tree_id": "m1",
                "tree_state": "ready_for_export",
                "prompt": {
                    "message_id": "m1",
                    "text": Q,
                    "role": "prompter",
                    "replies": [
                        {"message_id": "m2", "text": NILE, "role": "assistant", "rank": 0, "replies": []},
                        {"message_id": "m3", "text": BREAD, "role": "assistant", "rank": 1, "replies": []},
                    ],
                },
            },
        ),
        "OpenAssistant's export of trees",
        rows="nested",
    ),
)
LAYOUTS = (*PUBLIC, *OWN, *SPREAD, *ORDERED)
