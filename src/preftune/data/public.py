"""Layouts of public data sets that have their own names for things: two responses, and who won.

The sources are what the makers of a data set, or of a trainer, say of their rows.
"""

from __future__ import annotations

from .adapting import exported, individual, one_hot, steps, to_turn
from .layout import ASKED, BREAD, NILE, Layout, Q, says

PUBLIC = (
    Layout(
        "HelpSteer preferences",
        "Below 0 the first is better, above 0 the second, 0 is a tie; how far is not used.",
        {"prompt": "prompt", "a": "response_1", "b": "response_2", "toward_second": "preference_strength"},
        (
            {"prompt": Q, "response_1": NILE, "response_2": BREAD, "preference_strength": -2},
            {
                "context": ASKED,
                "response1": BREAD,
                "response2": NILE,
                "overall_preference": 3,
                "individual_preference": [{"score": 3}, {"score": 2}],
            },
        ),
        "nvidia/HelpSteer2 (preference), nvidia/HelpSteer3",
        variants=(
            {"prompt": "context", "a": "response1", "b": "response2", "toward_second": "overall_preference"},
            {"prompt": "prompt", "a": "response_1", "b": "response_2", "toward_second": "overall_preference"},
        ),
        adapt=individual,
        takes=("individual_preference", "all_preferences_unprocessed"),
    ),
    Layout(
        "PKU-SafeRLHF",
        "`better_response_id` is the place of the better response; for the safer one use "
        "`--columns better_index=safer_response_id`.",
        {"a": "response_0", "b": "response_1", "better_index": "better_response_id"},
        ({"prompt": Q, "response_0": BREAD, "response_1": NILE, "better_response_id": 1, "safer_response_id": 0},),
        "PKU-Alignment/PKU-SafeRLHF",
    ),
    Layout(
        "Arena votes, one column a winner",
        "Prompt and responses are lists of turns, as JSON; sides that differ before the last turn are skipped.",
        {"a": "response_a", "b": "response_b"},
        (
            {
                "prompt": '["Name a river."]',
                "response_a": '["The Nile."]',
                "response_b": '["Bread."]',
                "winner_model_a": 1,
                "winner_model_b": 0,
                "winner_tie": 0,
            },
        ),
        "lmsys/lmsys-arena-human-preference-55k",
        beside=("winner_model_a", "winner_model_b"),
        takes=("winner_tie",),
        adapt=one_hot,
    ),
    Layout(
        "Arena votes",
        "`winner` is `model_a`, `model_b`, `tie`, or a tie in which both are bad. `judge` is who voted. Where `turn` "
        "says how many turns were judged, later ones are cut off.",
        {"a": "conversation_a", "b": "conversation_b", "winner": "winner", "by": "judge|user_id?"},
        (
            {
                "model_a": "m",
                "model_b": "n",
                "winner": "model_b",
                "judge": "user_1",
                "conversation_a": [*ASKED, says(BREAD)],
                "conversation_b": [*ASKED, says(NILE)],
                "turn": 1,
            },
        ),
        "lmsys/chatbot_arena_conversations, lmsys/mt_bench_human_judgments, lmarena-ai/arena-human-preference-140k",
        variants=({"a": "messages_a", "b": "messages_b", "winner": "winner", "by": "judge?"},),
        takes=("turn",),
        adapt=to_turn,
    ),
    Layout(
        "SHP",
        "`labels` is 1 where A has more votes, else 0.",
        {"prompt": "history", "a": "human_ref_A", "b": "human_ref_B", "first_wins": "labels"},
        ({"history": Q, "human_ref_A": NILE, "human_ref_B": BREAD, "labels": 1},),
        "stanfordnlp/SHP",
    ),
    Layout(
        "WebGPT comparisons",
        "The answer with the higher score wins, equal scores are a tie.",
        {"prompt": "question.full_text", "a": "answer_0", "b": "answer_1", "score_a": "score_0", "score_b": "score_1"},
        (
            {
                "question": {"dataset": "eli5", "id": "q", "full_text": Q},
                "answer_0": BREAD,
                "score_0": -1.0,
                "answer_1": NILE,
                "score_1": 1.0,
            },
        ),
        "openai/webgpt_comparisons",
    ),
    Layout(
        "Summaries compared",
        "`choice` is the place of the better summary; the prompt is the post, or the article.",
        {"prompt": "info.post|info.article", "responses": "summaries", "better_index": "choice", "by": "worker?"},
        (
            {
                "info": {"id": "t1", "post": Q},
                "summaries": [{"text": BREAD}, {"text": NILE}],
                "choice": 1,
                "worker": "w",
            },
        ),
        "openai/summarize_from_feedback (comparisons)",
    ),
    Layout(
        "AlpacaFarm and AlpacaEval",
        "`preference` is 1 for the first, 2 for the second, 0 or 1.5 for a tie; what lies between is a probability.",
        {"a": "output_1", "b": "output_2", "one_to_two": "preference", "by": "annotator?"},
        ({"instruction": Q, "input": "", "output_1": BREAD, "output_2": NILE, "preference": 2},),
        "tatsu-lab/alpaca_farm, tatsu-lab/alpaca_eval",
    ),
    Layout(
        "HALOs pairs",
        "`label` is 1 where A is better, else 0.",
        {"a": "output_A", "b": "output_B", "first_wins": "label"},
        ({"prompt": ASKED, "output_A": [says(BREAD)], "output_B": [says(NILE)], "label": 0},),
        "ContextualAI/HALOs (pairwise_feedback)",
    ),
    Layout(
        "OpenAI preference fine-tuning",
        "The prompt, and its tools, stand under `input`.",
        {
            "prompt": "input.messages",
            "chosen": "preferred_output",
            "rejected": "non_preferred_output",
            "tools": "input.tools?",
        },
        (
            {
                "input": {"messages": ASKED, "tools": []},
                "preferred_output": [says(NILE)],
                "non_preferred_output": [says(BREAD)],
            },
        ),
        "OpenAI's guide to direct preference optimization",
    ),
    Layout(
        "Prometheus preference collection",
        "`orig_preference` is A or B.",
        {
            "prompt": "orig_instruction",
            "a": "orig_response_A",
            "b": "orig_response_B",
            "winner": "orig_preference",
        },
        ({"orig_instruction": Q, "orig_response_A": NILE, "orig_response_B": BREAD, "orig_preference": "A"},),
        "prometheus-eval/Preference-Collection",
    ),
    Layout(
        "Choices with labels",
        "Each of `targets.choices` has a label; the higher one wins.",
        {"prompt": "input", "responses": "targets.choices", "scores": "targets.labels"},
        ({"input": Q, "targets": {"choices": [BREAD, NILE], "labels": [0, 1]}},),
        "HuggingFaceH4/hhh_alignment",
    ),
    Layout(
        "Argilla export",
        "A record with its texts under `fields`; what people chose, or how they ranked, stands under `responses`, or, "
        "where nobody answered, under `suggestions`. Every answer is an annotation by that person. Rows that "
        "`to_datasets` wrote, with `QUESTION.responses` beside numbered responses, mean the same.",
        {"fields": "fields"},
        (
            {
                "fields": {"prompt": Q, "response_1": BREAD, "response_2": NILE},
                "responses": {"preference": [{"value": "response_2", "user_id": "u1"}]},
            },
            {
                "fields": {"prompt": Q, "response-1": BREAD, "response-2": NILE},
                "responses": [
                    {
                        "user_id": "u1",
                        "status": "submitted",
                        "values": {
                            "order": {"value": [{"rank": 1, "value": "response-2"}, {"rank": 2, "value": "response-1"}]}
                        },
                    }
                ],
            },
        ),
        "Argilla (records.to_json, FeedbackDataset)",
        beside=("responses",),
        takes=("suggestions",),
        adapt=exported,
    ),
    Layout(
        "Steps rated",
        "Single steps are rated, not whole responses: refused.",
        {"prompt": "question.problem", "steps": "label.steps"},
        (),
        "openai/prm800k",
        beside=("labeler", "generation"),
        adapt=steps,
    ),
)
