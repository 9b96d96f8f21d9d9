import json
from dataclasses import replace

import pytest

from bitwright.config import from_text
from bitwright.model.zoo import EMBEDDED
from bitwright.result_search import Costs, Design, Figures, Point, SearchResult
from bitwright.search.driver import correlation, gains, search
from bitwright.search.executors import executor_of
from bitwright.search.point import Machine
from bitwright.search.question import Question
from bitwright.search.worker import Setup
from bitwright.store import read_json

QUESTION = Question(
    schemes=("integer(8, 8)", "integer(4, 4)", "nvfp4()"), budget=("energy<=4uJ",), machines=(Machine("16x16"),),
    trials=24, population=6, limit=60,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def result(folder):
    return search(EMBEDDED["digits"], QUESTION, folder=folder)


def seen(result):
    return [(p.design, p.figures and (p.figures.metric, p.figures.held_out_metric)) for p in result.points]


def test_every_design_of_the_front_keeps_the_budget_and_none_beats_another(result):
    best = [result.points[i] for i in result.front]
    assert best
    for point in best:
        assert point.costs.energy_uj <= 4
        assert not any(
            other is not point and other.metric >= point.metric and other.costs.energy_uj <= point.costs.energy_uj
            and other.costs.area_delay <= point.costs.area_delay
            for other in best
        )  # fmt: skip
    assert result.points[result.chosen].metric == max(point.metric for point in best)


def test_a_strategy_without_a_design_of_the_schemes_is_named(result):
    assert "strategy ant4_8: it has no design of these schemes" in result.left_out
    assert not any(line.startswith(("strategy mixquant", "strategy ohq")) for line in result.left_out)


def test_what_breaks_a_limit_on_costs_is_not_evaluated(result):
    broken = [point for point in result.points if point.excess]
    assert broken
    assert all(point.figures is None for point in broken)
    assert result.rejected == len(broken)


def test_the_same_question_again_evaluates_nothing_and_ends_the_same(result, folder):
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("points/*.json")}
    again = search(EMBEDDED["digits"], QUESTION, folder=folder)
    assert seen(again) == seen(result)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("points/*.json")} == files
    assert len(files) == result.evaluated


def test_without_a_folder_the_path_is_the_same(result):
    assert seen(search(EMBEDDED["digits"], QUESTION)) == seen(result)


def test_the_result_is_read_back_as_it_was(result, folder):
    path = folder / "again" / "search.json"
    path.parent.mkdir()
    path.write_text((folder / "search.json").read_text())
    found = read_json(path, SearchResult)
    assert seen(found) == seen(result)
    assert found.gains == result.gains


def test_uniform_designs_stand_beside_the_best_of_no_more_cost(result):
    assert {gain.scheme for gain in result.gains} <= set(QUESTION.schemes)
    assert all(gain.gain >= 0 for gain in result.gains)


def test_an_impossible_budget_names_what_binds(folder):
    question = Question(**{**vars(QUESTION), "budget": ("area<=0.3mm2, energy<=50uJ",), "trials": 8})
    found = search(EMBEDDED["digits"], question, folder=folder)
    assert found.chosen is None
    assert found.front == ()
    assert [text for text, _ in found.nearest.excess] == ["area<=0.3mm2"]
    assert found.nearest.figures.metric > 50


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"machines": (Machine("3"),)}, "write rows and columns"), ({"machines": ()}, "no accelerator"),
        ({"library": "nope"}, "no measured library"), ({"objectives": ("speed",)}, "no objective 'speed'"),
        ({"sampler": "best"}, "choose from nsga2"), ({"measure": "hessian"}, "choose from kl"),
        ({"strategies": ("hawq",)}, "choose from mixquant"), ({"latency": "guessed"}, "choose from cycles"),
        ({"trials": 0}, "at least 1"), ({"held_out": 1.0}, "less than 1"), ({"budget": ("area",)}, "write a quantity"),
    ],
)  # fmt: skip
def test_words_that_are_not_known_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        search(EMBEDDED["digits"], Question(**{**vars(QUESTION), **changes}))


def test_the_command_ends_with_a_recipe_that_other_commands_take(tmp_path, monkeypatch, capsys):
    from bitwright.cli import main

    def run(*words):
        monkeypatch.setattr("sys.argv", ["bitwright", *words])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        return code, capsys.readouterr().out

    words = ("search", "digits", "-b", "energy<=4uJ", "-s", "integer(4, 4); nvfp4()", "--array", "16x16",
             "--trials", "12", "--limit", "40", "-o", str(tmp_path))  # fmt: skip
    code, text = run(*words)
    assert code == 0
    assert "The best design within energy<=4uJ" in text
    recipe = tmp_path / "recipe.txt"
    from_text(recipe.read_text())
    page = (tmp_path / "search.html").read_text()
    assert "front-plot" in page
    assert len((tmp_path / "designs.csv").read_text().splitlines()) > 2
    code, text = run("cost", "digits", "-s", f"@{recipe}", "--array", "16x16", "--json")
    assert json.loads(text)[0]["scheme"] == "recipe"


def test_a_rank_correlation_needs_values_that_vary():
    assert correlation([1.0, 2.0, 3.0], [2.0, 4.0, 9.0]) == pytest.approx(1, abs=1e-12)
    assert correlation([1.0, 1.0, 1.0], [2.0, 4.0, 9.0]) is None


def test_another_question_in_the_same_folder_keeps_the_answer_to_the_first(tmp_path):
    first = replace(QUESTION, trials=6, strategies=(), limit=24)
    found = search(EMBEDDED["digits"], first, folder=tmp_path)
    (tmp_path / "recipe.txt").write_text("of the first")
    search(EMBEDDED["digits"], replace(first, trials=8), folder=tmp_path)
    assert (tmp_path / "recipe.txt").exists(), "more trials are the same question"
    search(EMBEDDED["digits"], replace(first, budget=("energy<=5uJ",)), folder=tmp_path)
    (kept,) = (tmp_path / "earlier").iterdir()
    assert kept.name == found.question
    assert (kept / "recipe.txt").read_text() == "of the first"
    assert read_json(kept / "search.json", SearchResult).budget == first.budget
    assert read_json(tmp_path / "search.json", SearchResult).budget == ("energy<=5uJ",)
    assert not (tmp_path / "recipe.txt").exists()


def priced(schemes, metric, area, energy, origin="search"):
    costs = Costs(float(area), float(area), energy, 1.0, 1.0, 1.0, 8.0)
    layers = tuple((f"layer {i}", text) for i, text in enumerate(schemes))
    return Point(Design(layers), costs, 0.0, Figures(float(metric), metric - 1.0, None, None, 4, 0.0), origin)


@pytest.mark.parametrize("sign", [1, -1])
def test_gains_are_of_the_best_and_of_the_best_mixed_design_of_no_more_cost(sign):
    points = [
        priced("aa", sign * 90, 2.0, 2.0, "uniform"), priced("bb", sign * 80, 1.0, 1.0, "uniform"),
        priced("cc", sign * 95, 3.0, 2.0, "uniform"), priced("ab", sign * 89, 1.5, 1.5),
        priced("ac", sign * 99, 3, 2.5), priced("bc", sign * 93, 2.5, 2.0),
    ]  # fmt: skip
    first, second, third = gains(points, higher_is_better=sign > 0)
    assert (first.best, first.gain, first.mixed, first.mixed_gain) == (None, 0, 3, -1)
    assert (second.best, second.mixed, second.mixed_gain, second.mixed_held_out_gain) == (None, None, None, None)
    assert (third.best, third.mixed, third.mixed_gain, third.mixed_held_out_gain) == (None, 5, -2, -2)


def test_several_workers_too_end_an_impossible_budget_with_the_nearest_design(tmp_path):
    question = replace(QUESTION, budget=("area<=0.1mm2",), trials=6, strategies=(), limit=24)
    setup = Setup("digits", None, 24, question.schemes, question.held_out)
    with executor_of("local", setup, 2) as executor:
        found = search(EMBEDDED["digits"], question, folder=tmp_path, executor=executor)
    assert found.chosen is None
    assert [text for text, _ in found.nearest.excess] == ["area<=0.1mm2"]
    assert found.nearest.metric > 90
