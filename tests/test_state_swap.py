"""The state swap by features found in graphs: how they are found, what is tried, and what counts."""

import pytest
import torch

import tl_circuits as tlc
from benchmarks.state_swap import NAMES, Setting, Swaps, Traced, Trial, _failures, _interval, _trials
from tl_circuits.zoo.world import RELATIONS, STATES, world

SETTING = Setting(share=0.5, influence=0.1, means="relation", multiplier=1.0, attention="frozen")


def traced(n_features: int = 3) -> Traced:
    """Two questions of each state, about its capital and its bird; nothing is active."""
    state = torch.arange(len(STATES)).repeat(2)
    relation = torch.tensor([RELATIONS.index("capital"), RELATIONS.index("bird")]).repeat_interleave(len(STATES))
    nothing = torch.zeros(len(state), n_features)
    return Traced(state, relation, nothing, nothing.clone(), torch.zeros(len(state), 2, 4))


def test_a_feature_stands_for_the_state_in_whose_graphs_its_influence_is() -> None:
    graphs = traced()
    texas, ohio = NAMES.index("Texas"), NAMES.index("Ohio")
    graphs.influence[texas, 0], graphs.influence[ohio, 0] = 0.6, 0.2
    graphs.influence[texas, 1], graphs.influence[ohio, 1] = 0.1, 0.02
    graphs.influence[:, 2] = 0.5
    found = graphs.stand_for(SETTING).nonzero().tolist()
    assert found == [[texas, 0]]


def test_what_is_put_in_is_a_mean_over_the_relation_or_over_all_that_are_active() -> None:
    graphs, texas = traced(), NAMES.index("Texas")
    graphs.activations[texas, 0], graphs.activations[texas, 1], graphs.activations[texas + len(STATES), 1] = 3, 4, 6
    relation = RELATIONS.index("capital")
    assert graphs.put_in(SETTING, relation)[texas].tolist() == [3, 4, 0]
    every = Setting(share=0.5, influence=0.1, means="all", multiplier=1.0, attention="frozen")
    assert graphs.put_in(every, relation)[texas].tolist() == pytest.approx([3, 5, 0])


@pytest.mark.slow
def test_trials_ask_for_another_answer_and_what_fails_is_told_apart() -> None:
    trials = _trials(world().of("two-hop", held_out=True), 50, torch.Generator().manual_seed(0))
    assert all(trial.answer != trial.prompt.answer and trial.other != trial.state for trial in trials)
    capital = next(
        prompt for prompt in world().of("two-hop") if prompt.text == "the capital of the state containing Dallas is"
    )
    four = [Trial(capital, NAMES.index("California"))] * 4
    told = _failures(four, [" Sacramento", " Austin", " Denver", " robin"])
    assert told == {"the question's own answer": 0.25, "a third state's": 0.25, "anything else": 0.25}


def test_wilsons_interval_is_the_one_of_the_textbooks() -> None:
    assert _interval(1, 10) == pytest.approx([0.0179, 0.4042], abs=1e-4)
    assert _interval(0, 10)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_with_no_features_found_the_model_answers_as_it_does() -> None:
    model, clt = tlc.demo()
    graphs = traced(sum(clt.n_features[:-1]))
    trials = _trials(world().of("two-hop", held_out=True), 3, torch.Generator().manual_seed(1))
    swaps = Swaps(model, clt, graphs)
    assert swaps.answers(trials, [SETTING]) == [[trial.prompt.answer for trial in trials]]
    assert swaps.turned(trials, [SETTING]) == [0]
