"""The trace reader: who said each token, what was changed, what the model thought; and whatever a model writes is text."""

import numpy as np
import pandas as pd
import pytest
from synthetic_run import EVIL, Page, tokens

from latentreason.errors import InvalidInput
from latentreason.figures.display import CSS, SCRIPT, SOURCES, show, trace_html
from latentreason.studies.palette import ARMS
from latentreason.tables import Rollouts, concat

WORDS = ["<pad>", "<eos>", "think", "go", "so", "7", EVIL]


def rollouts(arm: str, *, traced: bool = True, samples: int = 2) -> Rollouts:
    """An arm of two problems; with a trace of who said what, or of a plain model."""
    rows = []
    for problem in ("p", "q"):
        for sample in range(samples):
            row = {"problem": problem, "sample": sample, "arm": arm, "correct": arm != "base", "text": EVIL}
            row["token_ids"] = np.array([2, 4, 6, 1])
            if traced:
                row |= {
                    "source": np.array([1, 0, 2, 0]), "changed": np.array([True, False, True, False]),
                    "base_token_ids": np.array([3, 4, 5, 1]), "base_entropy": np.array([0.5, 0.25, np.nan, 0.0]), "divergence": np.array([0.125, 0.0, 0.0, 0.0]),
                }  # fmt: skip
            rows.append(row)
    return Rollouts(pd.DataFrame(rows), {})


def test_a_token_has_the_colour_of_who_said_it_and_says_what_was_thought() -> None:
    found = tokens(show(rollouts("hybrid"), "p", 1, decode=WORDS.__getitem__).html)
    assert [attributes["class"] for attributes, _ in found] == ["s1 c", "s0", "s2 c", "s0"]
    assert [text for _, text in found] == ["think", "so", EVIL, "<eos>"]
    assert found[0][0]["title"] == "RL; base entropy 0.500 nats; divergence 0.125 nats; base would say: go"
    assert found[1][0]["title"] == "base; base entropy 0.250 nats; divergence 0.000 nats"
    assert found[2][0]["title"] == "steered base; divergence 0.000 nats; base would say: 7"
    assert {colour for _, colour in SOURCES.values()} >= {ARMS["base"], ARMS["rl"]}
    assert all(f".lr .s{i} {{ background: {colour}" in CSS for i, (_, colour) in SOURCES.items())


def test_a_plain_arm_is_whole_in_its_own_colour_and_arms_stand_in_order() -> None:
    arms = {"rl": rollouts("rl", traced=False), "hybrid": rollouts("hybrid"), "base": rollouts("base", traced=False)}
    text = trace_html(arms, decode=WORDS.__getitem__, problems=["q"], samples=[0])
    assert [attributes["class"][:2] for attributes, _ in tokens(text)] == ["s0"] * 4 + ["s1", "s0", "s2", "s0"] + ["s1"] * 4
    assert [label for attributes, label in Page(text).all("b") if attributes["class"] == "who"] == ["base", "hybrid", "RL"]
    assert [label for _, label in Page(text).all("span") if "right" in label or "wrong" in label] == ["✗ wrong", "✓ right", "✓ right"]


def test_a_table_of_several_arms_may_leave_columns_of_plain_arms_empty() -> None:
    both = concat([rollouts("base", traced=False), rollouts("hybrid")])
    assert [a["class"][:2] for a, _ in tokens(show(both, "p", decode=WORDS.__getitem__).html)] == ["s0"] * 4 + ["s1", "s0", "s2", "s0"]


def test_what_a_model_wrote_is_text_everywhere() -> None:
    table = rollouts("hybrid").table.assign(question=EVIL, answer=EVIL, problem=EVIL)
    table = table.drop_duplicates(["problem", "sample"])
    table["tokens"] = [[EVIL, " \n", '"', "'"]] * len(table)
    table["base_tokens"] = [[EVIL, " \n", '"', "'"]] * len(table)
    text = trace_html({EVIL: Rollouts(table.assign(arm=EVIL))})
    assert [content for _, content in Page(text).all("script")] == [SCRIPT]
    assert "<b>bold</b>" not in text and text.count("<script>") == 1
    assert tokens(text)[0][1] == EVIL and tokens(text)[0][0]["title"].endswith(f"base would say: {EVIL}")
    assert Page(text).all("section")[0][0]["data-label"].startswith(EVIL)


def test_words_get_spaces_and_pieces_keep_their_own() -> None:
    table = rollouts("base", traced=False, samples=1).table.head(1)
    spaced = show(Rollouts(table.assign(tokens=[["so", "7"]])), "p").html
    joined = show(Rollouts(table.assign(tokens=[["so", " 7"]])), "p").html
    assert "</span> <span" in spaced.partition('class="text"')[2] and "</span> <span" not in joined.partition('class="text"')[2]


def test_a_changed_line_break_can_be_seen() -> None:
    table = rollouts("hybrid", samples=1).table.head(1).assign(tokens=[["\n", "\n", "", "x"]], base_tokens=[["a", "b", "c", "x"]])
    assert [text for _, text in tokens(show(Rollouts(table), "p").html)] == ["↵\n", "\n", "∅", "x"]


def test_the_view_of_a_notebook_has_no_script() -> None:
    view = show(rollouts("hybrid"), "p", decode=WORDS.__getitem__)
    assert view._repr_html_() == view.html
    assert not Page(view.html).all("script") and len(Page(view.html).all("section")) == 1


def test_what_cannot_be_shown_is_refused_with_the_fix() -> None:
    with pytest.raises(InvalidInput, match=r"pass decode=tokenizer\.decode"):
        show(rollouts("hybrid"), "p")
    with pytest.raises(InvalidInput, match=r"no tokens to show. Pass them as sampled \(keep_tokens=True"):
        show(rollouts("hybrid").slim(), "p")
    with pytest.raises(InvalidInput, match="Not every arm has problem 'p', sample 7"):
        show(rollouts("hybrid"), "p", 7, decode=WORDS.__getitem__)
    with pytest.raises(InvalidInput, match="Not every arm has problem 'z', sample any"):
        trace_html({"hybrid": rollouts("hybrid")}, problems=["z"], decode=WORDS.__getitem__)
    with pytest.raises(InvalidInput, match="at least one arm"):
        trace_html({})


def test_rollouts_in_a_notebook_escape_what_a_model_wrote() -> None:
    text = rollouts("hybrid")._repr_html_()
    assert not Page(text).all("script") and "<b>" not in text
    assert EVIL in [content for _, content in Page(text).all("td")]
