"""The studies `routing` and `rivals` on tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from latentreason.errors import InvalidInput
from latentreason.studies import rivals, routing
from latentreason.tables import Rollouts, concat

N, SAMPLES = 30, 8


def arm(name, rate, share=0.0, info=None, seed=0):
    rng = np.random.default_rng([seed, len(name)])
    problem = np.repeat([f"p{i:02d}" for i in range(N)], SAMPLES)
    correct = rng.random(N * SAMPLES) < rate
    table = pd.DataFrame({"problem": problem, "sample": np.tile(np.arange(SAMPLES), N), "arm": name, "n_tokens": 40, "n_changed": round(4 * share), "n_routed": 4, "correct": correct})
    return Rollouts(table, {name: info or {}})


def router(name, share, *, control=False, source=None):
    calibration = {"budget": share, "share_of_D": share, "accuracy": 0.2 + 0.7 * share**2, "base_accuracy": 0.2, "rl_accuracy": 0.9}
    params = {"of": name, "budget": share} if control else {"calibration": calibration, **({"probe": {"timing_source": source}} if source else {})}
    return {"router": {"name": "matched_disagreement" if control else name, "params": params, "reads": ["base", "base:2"] if source else ["base", "rl"]}}


@pytest.fixture
def tables():
    hybrids, controls = [], []
    for name, lift, source in (("on_divergence(js)", 0.2, None), ("on_probe(onset)", 0.0, "base alone"), ("on_value(base)", 0.1, "trained on RL labels")):
        for share in (0.25, 0.5, 0.75):
            hybrids.append(arm(f"{name}@{share}", 0.2 + 0.7 * (share + lift), share, router(name, share, source=source)))
            controls.append(arm(f"c:{name}@{share}", 0.2 + 0.7 * share, share, router(name, share, control=True), seed=1))
    exchanged = concat([arm("exchanged@0.5", 0.9 - 0.35, 0.5, router("on_divergence(js)", 0.5)), arm("twin", 0.9 - 0.1, 0.5, router("on_divergence(js)", 0.5, control=True))])
    return {"base": arm("base", 0.2), "rl": arm("rl", 0.9, 1.0), "hybrid": concat(hybrids), "control": concat(controls), "exchanged": exchanged}


def test_routing_tells_what_a_router_knows_and_what_exchange_costs(tables):
    readout = {"auroc": 0.9, "auroc_interval": [0.85, 0.95], "n_held_out": 80, "baselines": {"entropy": {"auroc": 0.7}, "token and position": {"auroc": 0.88, "auroc_interval": [0.8, 0.9]}}}
    result = routing.run(**tables, facts={"on_probe(onset)": readout})
    assert result.estimate("auroc", router="on_probe(onset)", control="").lo == 0.85 and result.estimate("auroc", router="on_probe(onset)", control="entropy").value == 0.7
    assert routing.drawn(result)[0]["baseline"] == "token and position" and "has an AUROC of 0.900 beside 0.880 of token and position" in result.said
    assert [r["timing_source"] for r in routing.drawn(result)] == ["base alone", "trained on RL labels", "RL model live"]
    assert routing.drawn(result)[0]["auroc"] == 0.9
    lost = result.estimate("lost", arm="exchanged@0.5")
    low, high = (tables[k].per_problem().mean() for k in ("base", "rl"))
    mid, twin = (tables["exchanged"].arm(name).per_problem().mean() for name in ("exchanged@0.5", "twin"))
    assert lost.value == pytest.approx((high - mid) / (high - low)) and lost.lo < 0.5 < lost.hi
    assert result.estimate("lost", arm="twin").value == pytest.approx((high - twin) / (high - low))
    assert result.estimate("lost_beyond", arm="exchanged@0.5").value == pytest.approx((twin - mid) / (high - low)) and "more than random disagreements" in result.said
    assert result.estimate("area_difference", router="on_divergence(js)", control="matched_disagreement").lo > 0
    knots = [0, 0.25, 0.5, 0.75, 1]
    assert result.details["calibration_area"]["on_probe(onset)"] == pytest.approx(np.trapezoid(np.square(knots), knots))
    assert "Base alone: on_probe(onset) (best of 1 whose arms reach over the curve, on calibration problems)" in result.said and "no evidence that it matters which" in result.said
    assert len(result.plot().get_yticklabels()) == 3


def test_the_best_oracle_may_have_a_second_control(tables):
    info = {"router": {"name": "matched_position", "params": {"of": "on_divergence(js)", "budget": 0.5}, "reads": ["base"]}}
    clocks = [arm(f"p{share}", 0.2 + 0.35 * share, share, info, seed=3) for share in (0.25, 0.5, 0.75)]
    result = routing.run(**{**tables, "control": concat([tables["control"], *clocks])})
    assert result.estimate("area_difference", router="on_divergence(js)", control="matched_position").lo > 0
    assert "above random places at its exact positions" in result.said
    few = routing.run(**{**tables, "control": concat([tables["control"], clocks[0], arm("p0.3", 0.2 + 0.35 * 0.3, 0.3, info, seed=3)])})  # a clock that reaches a third of D
    assert not few.estimate("area_difference", router="on_divergence(js)", control="matched_position").defined
    assert "above random places at its exact positions, " in few.said and "at 0.25 D" in few.said
    assert routing.drawn(result) == routing.drawn(routing.run(**tables))


def test_a_router_is_as_informed_as_what_it_is_made_of(tables):
    from latentreason.sources import sources

    probe = {"name": "on_probe", "params": {"probe": {"timing_source": "trained on RL labels"}, "threshold": 0.0}, "reads": ["base", "base:2"]}
    plain = {"name": "on_entropy", "params": {"threshold": 0.5}, "reads": ["base"]}
    nearest = {"name": "on_nearest", "params": {"vectors": {"model": "rl"}}, "reads": ["base", "base:2"]}
    made = {
        "trained on RL labels": [nearest, probe, {"name": "opposite(on_probe)", "params": {"opposite": probe}, "reads": ["base"]}, {"name": "~", "params": {"not": probe}, "reads": ["base"]}],
        "base alone": [plain], "RL model live": [{"name": "&", "params": {"left": probe, "right": plain}, "reads": ["base", "rl"]}],
    }  # fmt: skip
    for source, specs in made.items():
        for spec in specs:
            assert sources({"router": spec})["timing_source"] == source, spec


@pytest.mark.parametrize(("facts", "content", "category"), [
    ({"action": {"name": "swap", "params": {}}}, "RL token", ""),
    ({"action": {"name": "rerank", "params": {"k": 5}}}, "RL logits", ""),
    ({"action": {"name": "steer_best", "params": {"vectors": {"weights": "b", "random_like": 0}, "category": "rl:2"}}, "weights": ["b", "r"]}, "RL logits", "RL model live"),
    ({"action": {"name": "steer", "params": {"vectors": {"weights": "b", "traces": "another model's"}}}, "weights": ["b", "r"]}, "RL-fitted vector", ""),
    ({"action": {"name": "steer", "params": {"vectors": {"weights": "b"}, "category": "rl:2"}}, "weights": ["b", "r"]}, "base-fitted vector", "RL model live"),
    ({"action": {"name": "steer", "params": {"vectors": {"weights": "r"}, "category": "base:2"}}, "weights": ["b", "r"]}, "RL-fitted vector", "base alone"),
    ({"action": {"name": "steer", "params": {"vectors": {"weights": "b", "random_like": 0}, "category": "random, seed 0"}}, "weights": ["b", "r"]}, "random vector", "none"),
    ({"action": {"name": "steer", "params": {"vectors": {"weights": "b", "method": "optimised"}}}, "weights": ["b", "r"]}, "RL-fitted vector", ""),
    ({"action": {"name": "steer", "params": {"vectors": {"weights": "b"}, "strength": 0.0}}, "weights": ["b", "r"]}, "base token", ""),
    ({"action": {"name": "steer", "params": {"vectors": {"model": "elsewhere"}}}}, "steering vector", ""),
])  # fmt: skip
def test_content_is_where_the_emitted_token_comes_from(facts, content, category):
    from latentreason.sources import sources

    found = sources({"router": {"name": "on_entropy", "params": {}, "reads": ["base"]}, **facts})
    assert found == {"timing_source": "base alone", "content_source": content, "category_source": category}


def test_an_arm_that_is_no_hybrid_has_no_timing_but_what_its_facts_say():
    from latentreason.sources import sources

    assert set(sources({}).values()) == {""}  # unknown is not "the base alone"
    stated = {"timing_source": "none", "content_source": "RL weights"}
    assert sources(stated) == {**stated, "category_source": ""}


@pytest.mark.parametrize(("uses", "control"), [
    ("RL timing, RL token", True), ("base timing, RL token", True), ("RL timing, nothing added: the base by another way", True), ("RL logits at every token, random vectors", True),
    ("base timing, random category, base-fitted vectors", True), ("RL timing, RL category, random vectors, another draw", True),
    ("random places, RL category, base-fitted vectors", True), ("RL tokens at every token, RL category, RL-trained vectors and strength", False), ("RL timing, RL category, base-fitted vectors", False), ("RL logits at every token", False),
])  # fmt: skip
def test_controls_and_identities_are_no_rivals(uses, control):
    assert rivals.is_control(uses) is control


def test_routers_without_a_curve_are_said_to_lack_one(tables):
    def at(share):
        return {k: concat([t.arm(a) for a in t.arms if a.endswith(f"@{share}")]) for k, t in tables.items() if k in ("hybrid", "control")}

    alone = routing.run(base=tables["base"], rl=tables["rl"], **at(0.5))
    assert alone.said.startswith("No router has a defined area (") and "0.25, 0.5 and 0.75" in alone.said
    uncompared = routing.run(**{**tables, "control": at(0.5)["control"]})
    assert "nan" not in uncompared.said and "no curve of matched disagreements to compare it with" in uncompared.said


def test_rivals_are_judged_at_their_setting_and_by_what_they_use(tables):
    arms = concat([arm("temperature", 0.25), arm("interpolation", 0.8, seed=2)])
    facts = {
        "temperature": {"uses": "labels of calibration problems", "passes": 1, "setting": 0.2, "tried": []},
        "interpolation": {"uses": "RL weights", "passes": 1, "setting": 0.5, "tried": []},
    }
    result = rivals.run(base=tables["base"], rl=tables["rl"], rivals=arms, facts=facts)
    base, rl, mid = (t.per_problem().mean() for t in (tables["base"], tables["rl"], arms.arm("interpolation")))
    assert result.estimate("recovery", arm="interpolation").value == pytest.approx((mid - base) / (rl - base))
    assert "Without anything of the RL model the best rival is temperature at 0.2" in result.said and "interpolation at 0.5" in result.said
    facts["temperature"]["tried"], three = [{"setting": 0.2, "accuracy": 0.5}], concat([arms, arm("votes", 0.9, seed=4), arm("swap", 0.95, seed=5)])
    facts |= {"votes": {"uses": "nothing", "passes": 16, "setting": 16, "tried": [{"setting": 16, "accuracy": 0.4}]}, "swap": {"uses": "RL timing, RL token", "passes": 2, "setting": 1, "tried": []}}
    chosen = rivals.run(base=tables["base"], rl=tables["rl"], rivals=three, facts=facts).said
    assert "the best rival (of 2, on calibration problems) is temperature at 0.2" in chosen and "swap" not in chosen  # not the one that the test problems favour, and no identity
    facts["votes"]["tried"] = []
    neither = rivals.run(base=tables["base"], rl=tables["rl"], rivals=three, facts=facts).said
    assert "2 arms, none chosen on calibration problems, recover" in neither and "votes at 16 0." in neither and "temperature at 0.2 0." in neither
    assert len(result.plot().get_yticklabels()) == 2


def test_rivals_stand_beside_the_routed_hybrids(tables):
    arms = concat([arm("temperature", 0.25), arm("js", 0.7, info=router("on_divergence(js)", 0.5), seed=2), arm("late", 0.3, info=router("on_entropy", 0.5), seed=3)])
    facts = {
        "temperature": {"uses": "labels", "passes": 1, "setting": "0.2", "tried": [{"setting": "0.2", "accuracy": 0.3}], "rl_logits": 0.0},
        "js": {"uses": "RL timing, RL token", "passes": 2, "setting": "0.5 D", "tried": [{"setting": 0.5, "accuracy": 0.7}], "rl_logits": 1.0, "routed": True},
        "late": {"uses": "base timing, RL token", "passes": 2, "setting": "0.5 D", "tried": [{"setting": 0.5, "accuracy": 0.3}], "rl_logits": 0.1, "routed": True},
    }  # fmt: skip
    result = rivals.run(base=tables["base"], rl=tables["rl"], rivals=arms, facts=facts)
    base, rl, one, other = (t.per_problem().mean() for t in (tables["base"], tables["rl"], arms.arm("temperature"), arms.arm("js")))
    assert result.estimate("difference", arm="temperature", against="js").value == pytest.approx((one - other) / (rl - base))
    assert f"{result.estimate('difference', arm='temperature', against='js')} beside js" in result.said
    assert not ((result.table["quantity"] == "difference") & result.table["arm"].isin(["js", "late"])).any()
    row = result.table[(result.table["quantity"] == "recovery") & (result.table["arm"] == "js")].iloc[0]
    assert (row["timing_source"], row["content_source"], row["rl_logits"]) == ("RL model live", "RL token", 1.0)
    assert "RL logits at 10% of the tokens" in rivals.label(next(r for r in rivals.drawn(result) if r["arm"] == "late"))


def test_the_optimism_of_the_best_seed_is_said(tables):
    facts = {"a": {"uses": "RL timing", "passes": 1, "setting": 1, "tried": []}}
    fits = pd.DataFrame({"kind": "bias", "layer": [1, 1, 2, 2], "seed": [0, 1, 0, 1], "chosen": [True, False, False, True], "optimism": [0.01, 0.01, -0.03, -0.03], "select": [1.0, 1.1, 0.9, 0.8]})
    result = rivals.run(base=tables["base"], rl=tables["rl"], rivals=arm("a", 0.5), facts=facts, fits=fits)
    assert "look better by -0.0100 nats on average (at most -0.0300)" in result.said and "over 2 fits" in result.said
    from latentreason.figures.compare_charts import TRAINED

    layers = TRAINED.numbers({"trained": result})["layers"]
    assert [(cell["layer"], cell["value"], cell["taken"]) for cell in layers] == [(1, 1.0, False), (2, 0.8, True)]


def test_what_was_left_out_says_why_and_loops_are_flagged(tables):
    arms = concat([arm("steady", 0.5), arm("loops", 0.6, seed=2)])
    facts = {name: {"uses": "RL timing", "passes": 1, "setting": 1, "tried": []} for name in arms.arms} | {"missing": {"uses": "RL of its own", "reason": "not trained yet"}}
    noise = np.random.default_rng(0)
    fluency = pd.concat([
        pd.DataFrame({"arm": name, "problem": [f"p{i:02d}" for i in range(N)], "repeated": noise.uniform(low, low + 0.1, N), "base_logprob": noise.normal(mean, 0.1, N)})
        for name, low, mean in (("base", 0.0, -1.0), ("steady", 0.0, -1.02), ("loops", 0.5, -3.0))
    ]).sample(frac=1, random_state=0)  # fmt: skip
    result = rivals.run(base=tables["base"], rl=tables["rl"], rivals=arms, facts=facts, fluency=fluency)
    assert result.estimate("recovery", arm="missing").reason == "not trained yet" and not result.estimate("recovery", arm="missing").defined
    assert result.details["fluency"]["loops"] == {"repeats": True, "unlikely": True} and result.details["fluency"]["steady"]["repeats"] is False
    for name in ("base", "steady", "loops"):
        part = fluency[fluency["arm"] == name]
        assert result.estimate("repeated", arm=name).value == pytest.approx(part["repeated"].mean())
        assert result.estimate("base_logprob", arm=name).value == pytest.approx(part["base_logprob"].mean())
    assert result.said.endswith("More repeated than the base's text, and less likely to the base: loops.")
    likely = fluency.assign(base_logprob=fluency["base_logprob"].where(fluency["arm"] != "loops", -0.5))  # repeats a little, as the RL model may, in text that the base finds likely
    assert "More repeated" not in rivals.run(base=tables["base"], rl=tables["rl"], rivals=arms, facts=facts, fluency=likely).said
    assert [t.get_text() for t in result.plot().get_yticklabels()][-1] == "missing\nuses RL of its own"


def test_the_rl_model_itself_and_its_pick_among_base_tokens_are_no_rivals_and_ties_keep_their_names(tables):
    names = {"one": "RL timing, a", "other": "RL timing, b", "pick": "RL timing, RL logits among 5 base tokens", "RL, greedy": "the RL model", "own": "an RL training of its own"}
    facts = {name: {"uses": uses, "passes": 1, "setting": 1, "tried": []} for name, uses in names.items()}
    arms = concat([arm(name, 0.5, seed=3) for name in names])
    result = rivals.run(base=tables["base"], rl=tables["rl"], rivals=arms, facts=facts)
    assert "2 arms, none chosen on calibration problems" in result.finding and "(one)" in result.finding and "(other)" in result.finding
    assert "pick" not in result.said and "RL, greedy" not in result.said
    alone = rivals.run(base=tables["base"], rl=tables["rl"], rivals=arms.arm("own"), facts={"own": facts["own"]}).finding
    assert alone.startswith("With an RL training of its own the best rival is own at 1 with ") and "refutes" in alone


def test_without_a_gain_no_rival_can_be_judged(tables):
    facts = {"temperature": {"uses": "nothing", "passes": 1, "setting": 1, "tried": []}}
    result = rivals.run(base=tables["base"], rl=tables["base"], rivals=arm("temperature", 0.25), facts=facts)
    assert result.said.startswith("No rival can be judged: RL gain not above 0")
    result.plot()


def test_other_problems_and_arms_without_facts_are_refused(tables):
    other = Rollouts(tables["rl"].table.assign(problem="x" + tables["rl"].table["problem"]), tables["rl"].info)
    with pytest.raises(InvalidInput, match="answer different problems"):
        rivals.run(base=tables["base"], rl=other, rivals=arm("a", 0.5), facts={})
    with pytest.raises(InvalidInput, match="no facts about the arm 'a'"):
        rivals.run(base=tables["base"], rl=tables["rl"], rivals=arm("a", 0.5), facts={})
    with pytest.raises(InvalidInput, match="answer different problems"):
        routing.run(**{**tables, "exchanged": Rollouts(other.table.assign(arm="exchanged"), {"exchanged": router("x", 0.5)})})
