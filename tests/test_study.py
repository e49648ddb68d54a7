"""The study of extension schemes: its text, questions, schemes and statistics, and a tiny one from end to end."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import extension
import extension_data as data
import numpy as np
import pytest
import torch
import toys
from extension_bed import OwnTraining, Setting, SmallBed, TextBed, score, split
from extension_page import CLAIMS, Comparison, Runs, write_page
from extension_schemes import PERMUTATIONS, Schemes, Shape, base_for
from extension_statistics import estimate, holm, p_value, seeds_needed, verdict
from scipy import stats

from ropesearch import shipped_texts
from ropesearch.core.presets import PRESETS
from ropesearch.evaluation import recall
from ropesearch.evaluation.reader import Reader
from ropesearch.training.trainer import StageTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = Shape(heads=4, kv_heads=4, head_dim=32, base=188.0, original=64)
TINY = OwnTraining(
    hidden=32, feed_forward=32, layers=1, heads=2, length=64, rows=2, first_steps=2, later_steps=1, rounds=2,
    nearly=0.0, retrieves=0.0,
)  # fmt: skip
TINY_SETTINGS = (Setting(2, (0, 3), 3, 1e-3), Setting(3, (3,), 3, 1e-3))


def events(row):
    """(place, key, value) of every key in a row."""
    keys = range(data.FIRST_KEY, data.FIRST_VALUE)
    return [(i, int(token), int(row[i + 1])) for i, token in enumerate(row[:-1]) if token in keys]


def test_text_binds_every_key_once_and_asks_for_it_at_most_once():
    rows = data.training_rows(200, 256, 7, np.random.default_rng(0))
    assert rows.shape == (200, 256)
    repeated = 0
    for row in rows[0::2]:
        found = {}
        for _, key, value in events(row):
            found.setdefault(key, []).append(value)
        assert all(len(values) <= 2 and len(set(values)) == 1 for values in found.values())
        repeated += sum(len(values) == 2 for values in found.values())
    # 64 chunks, of which 0.8 have an event and, while keys wait, 0.35 of those ask
    assert 14 < repeated / 100 < 20
    for row in rows[1::2]:
        assert any((row[period:] == row[:-period]).all() for period in range(4, 129))


def test_text_follows_its_chain():
    text = data.markov_text(300, 50, 7, np.random.default_rng(0))
    followers = {}
    for row in text:
        for a, b in pairwise(row):
            followers.setdefault(int(a), set()).add(int(b))
    assert max(map(len, followers.values())) <= data.FOLLOWERS
    other = data.markov_text(300, 50, 8, np.random.default_rng(0))
    assert (text[:, 0] == other[:, 0]).all()
    assert (text[:, 1] != other[:, 1]).any()


@pytest.mark.parametrize("length", [64, 1024, 2048])
def test_questions_are_answered_once_before_and_lie_evenly_in_bands(length):
    questions = data.make_questions(14, length, 7, np.random.default_rng(1))
    counts = [0] * data.BANDS
    for row, places, distances in zip(questions.ids, questions.places, questions.distances, strict=True):
        found = events(row)
        for place, distance in zip(places, distances, strict=True):
            (bound, _, value), (asked, _, again) = [event for event in found if event[1] == row[place]]
            assert (bound + 1 + distance, asked, again) == (place, place, value)
            counts[(distance - 1) // (length // 8)] += 1
        assert all(place + 1 >= length - questions.last for place in places)
        assert len({key for _, key, _ in found}) == len(found) - len(places)
    assert max(counts) - min(counts) <= 1
    assert [n for _, n in data.by_band(questions, np.ones(questions.places.shape, bool))] == counts


def test_accuracy_is_the_mean_over_bands():
    assert data.accuracy([[1, 2], [3, 3], [0, 0]]) == 0.75


def test_documents_are_rows_again(tmp_path):
    rows = data.training_rows(6, 64, 0, np.random.default_rng(0))
    data.write_documents(tmp_path / "text.jsonl", rows)
    texts = [json.loads(line)["text"] for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    assert (np.array(data.make_tokenizer()(texts)["input_ids"]) == rows).all()


def test_bases_of_the_paper_follow_from_their_ratios():
    paper = PRESETS["table2"]
    assert base_for(38.63, 131072, 128) == pytest.approx(paper["bmin"], rel=1e-3)
    assert base_for(188.35, 131072, 128) == pytest.approx(paper["bmax"], rel=1e-3)
    assert base_for(13.28, 64, 32) == pytest.approx(188, abs=0.5)


def test_schemes_have_their_controls(tmp_path):
    schemes = Schemes(SHAPE, 16, 100, tmp_path)
    again = Schemes(SHAPE, 16, 100, tmp_path)
    low, high = schemes.ends()
    names = [candidate.name for candidate in schemes.main()]
    assert len(set(names)) == len(names) == 15
    for name, candidate in schemes.sets().items():
        assert candidate == again.sets()[name]
        if name != "log-spaced":
            assert all(low * 0.9999 <= base <= high * 1.0001 for base in candidate.bases)
        single, *permuted = schemes.controls(candidate)
        assert len(permuted) == PERMUTATIONS
        assert float(single.stages[0][0].removeprefix("abf:")) == pytest.approx(
            math.prod(candidate.bases) ** (1 / 4), rel=1e-5
        )
        orders = {candidate.bases, *(other.bases for other in permuted)}
        assert len(orders) == PERMUTATIONS + 1
        assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(candidate.bases))}
    assert Schemes(SHAPE, 16, 101, tmp_path).sets()["random subset"] != schemes.sets()["random subset"]
    tasks = extension.plan(SmallBed(tmp_path, "cpu"), extension.SMALL, [100], full=True)
    planned = {task.candidate.name for task in tasks}
    assert len({task.key for task in tasks}) == len(tasks)
    assert {name for claim in CLAIMS for name in (claim.scheme, claim.other)} <= planned


def test_steps_are_shared_out():
    assert [split(n, 3) for n in (3, 5, 10, 40)] == [[1, 1, 1], [1, 2, 2], [3, 3, 4], [13, 13, 14]]
    assert split(7, 1) == [7]


def test_intervals_are_those_of_scipy():
    values = np.random.default_rng(0).normal(0.1, 0.2, 6)
    found, theirs = estimate(values), stats.ttest_1samp(values, 0.03)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-12)
    assert p_value(values, 0.03) == pytest.approx(theirs.pvalue, rel=1e-12)
    assert estimate([0.5]).interval is None
    assert p_value([0.5]) == 1.0


def test_holm_is_step_by_step():
    random = np.random.default_rng(0)
    for _ in range(50):
        p = random.random(7) ** 3
        left, rejected, level = list(range(7)), set(), 0.05
        while left:  # as the rule is told: the smallest against level / number left, stop at the first that fails
            smallest = min(left, key=lambda i: p[i])
            if p[smallest] * len(left) >= level:
                break
            rejected.add(smallest)
            left.remove(smallest)
        assert {i for i, adjusted in enumerate(holm(p)) if adjusted < level} == rejected
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_seeds_needed_are_the_fewest_with_the_power():
    random = np.random.default_rng(0)

    def power(n, sd, effect):
        return np.mean(stats.ttest_1samp(random.normal(effect, sd, (20000, n)), 0, axis=1).pvalue < 0.05)

    for sd, effect in [(0.02, 0.02), (0.05, 0.02)]:
        n = seeds_needed(sd, effect)
        assert power(n, sd, effect) > 0.785
        assert power(round(0.9 * n) - 1, sd, effect) < 0.79
    assert seeds_needed(10.0, 0.001) == 9999
    assert seeds_needed(0.0, 0.1) == 2


def test_verdicts():
    assert verdict(0.1, 0.01) == "holds"
    assert verdict(-0.1, 0.01) == "does not hold"
    assert verdict(-0.01, 0.01, null=-0.02) == "holds"
    assert verdict(0.1, 0.06) == "cannot be told apart"


def test_comparisons_are_of_the_seeds_that_both_have():
    found = Comparison.of({1: 0.5, 2: 0.75, 3: 1.0}, {2: 0.5, 3: 0.5, 4: 0.0})
    assert found.differences == (0.25, 0.5)


def test_the_most_likely_is_that_of_a_whole_pass():
    model = toys.toy("llama-grouped")
    ids, among = toys.tokens(3, 40), [5, 17, 60]
    with torch.no_grad():
        logits = model(ids).logits[:, -11:-1]
    expected = torch.tensor(among)[logits[..., among].argmax(-1)]
    for chunk in (7, 100):
        assert Reader(model, chunk=chunk).most_likely(ids, 10, among).equal(expected)


def test_answers_are_scored_where_they_stand():
    questions = data.make_questions(5, 64, 0, np.random.default_rng(0))

    class Knowing(Reader):
        """Says the next token, and a wrong one in the first row."""

        def __init__(self):
            self.row = 0

        def in_batches(self, samples, length, score):
            return [score(samples[:2]), score(samples[2:])]

        def most_likely(self, ids, last, among):
            said = ids[:, -last:].clone()
            if not self.row:
                said[0] += 1
            self.row += len(ids)
            return said

    bands = score(Knowing(), questions)
    n = questions.places.shape[1]
    assert (sum(h for h, _ in bands), sum(n for _, n in bands)) == (4 * n, 5 * n)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A study of a few schemes, in this process."""
    folder = tmp_path_factory.mktemp("study")
    bed = SmallBed(folder, "cpu", TINY, questions=8)
    extension.add_line(folder, extension.run_own(bed, 1))
    names = ("untouched", "ABF multi-stage", "peak-valley", "peak-valley: one base", "NTK")
    for task in extension.plan(bed, TINY_SETTINGS, [1], full=False):
        if task.candidate.name in names:
            extension.add_line(folder, extension.run_task(bed, task))
    return bed


def runs_of(bed):
    lines = [line for line in extension.read_lines(bed.folder) if line["kind"] == "run"]
    return {(line["setting"], line["scheme"], line["seed"]): line for line in lines}


@pytest.mark.slow
def test_a_study_becomes_a_page(tiny):
    lines, runs = extension.read_lines(tiny.folder), runs_of(tiny)
    assert len(runs) == len(lines) - 1 == 5 + 4  # a control belongs to the first setting only
    points = [(point["step"], point["length"]) for point in runs["2x", "untouched", 1]["points"]]
    assert points == [(0, 128), (3, 64), (3, 128), (3, 256)]
    assert [(p["step"], p["length"]) for p in runs["2x", "peak-valley: one base", 1]["points"]] == [(3, 128)]
    write_page(lines, TINY_SETTINGS, tiny, "python study", tiny.folder / "evidence.md")
    page = (tiny.folder / "evidence.md").read_text()
    assert "| Searched bases beat NTK | peak-valley − NTK |" in page
    assert "**cannot be told apart**" in page
    assert "nan" not in page
    assert (tiny.folder / "evidence.png").stat().st_size > 10000
    write_page(lines, TINY_SETTINGS, tiny, "python study", tiny.folder / "again" / "evidence.md")
    assert (tiny.folder / "again" / "evidence.md").read_text() == page


def test_the_page_is_what_its_lines_make(tmp_path):
    page = Path(__file__).parent.parent / "docs" / "evidence.md"
    lines = [json.loads(line) for line in page.with_suffix(".jsonl").read_text().splitlines()]
    command = re.search(r"^python studies/.*$", page.read_text(), re.MULTILINE)[0]
    write_page(lines, extension.SMALL, SmallBed(tmp_path, "cpu"), command, tmp_path / "evidence.md")
    assert (tmp_path / "evidence.md").read_text() == page.read_text()


@pytest.mark.slow
def test_a_run_that_is_repeated_gives_the_same_line(tiny):
    for name in ("peak-valley", "ABF multi-stage"):
        (task,) = [task for task in extension.plan(tiny, TINY_SETTINGS, [1], full=False) if task.key == ("2x", name, 1)]
        again = extension.run_task(tiny, task)
        assert again | {"cpu_seconds": 0} == runs_of(tiny)[task.key] | {"cpu_seconds": 0}


@pytest.mark.slow
def test_all_schemes_of_a_seed_read_the_same_rows(tiny, monkeypatch):
    seen = []
    step = StageTrainer.compute_loss

    def watched(self, model, inputs, *args, **options):
        seen.append(inputs["input_ids"].clone())
        return step(self, model, inputs, *args, **options)

    monkeypatch.setattr(StageTrainer, "compute_loss", watched)
    read = {}
    for candidate in Schemes(tiny.shape, 2, 1, tiny.folder / "sets").main():
        if candidate.name in ("NTK", "uniform", "ABF multi-stage"):
            seen.clear()
            tiny.extend(1, TINY_SETTINGS[0], candidate, 3, tiny.folder / candidate.name, 3)
            read[candidate.name] = torch.cat([ids.flatten() for ids in seen])
    assert len(read["NTK"]) == 3 * 2 * 128
    assert read["NTK"].equal(read["uniform"])
    assert len(read["ABF multi-stage"]) == len(read["NTK"])


@pytest.mark.slow
def test_accuracy_after_a_step_is_that_of_a_run_that_ends_there(tiny):
    setting = Setting(2, (1, 2), 2, 1e-3)
    candidate = Schemes(tiny.shape, 2, 1, tiny.folder / "sets").main()[2]
    both = tiny.curve(1, setting, candidate, (1, 2), tiny.folder / "both", far=False)
    alone = tiny.curve(1, setting, candidate, (1,), tiny.folder / "alone", far=False)
    assert both[0] == alone[0]


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_stopped(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(extension, "ProcessPoolExecutor", lambda n, *_: ThreadPoolExecutor(n))
    bed = SmallBed(tmp_path, "cpu", TINY, questions=8)
    tasks = [task for task in extension.plan(bed, TINY_SETTINGS[:1], [1, 2], full=False) if task.tier == 1][:3]
    extension.run_study(bed, tasks[:1], [1], 1)
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"kind": "run", "set')  # a crash
    extension.run_study(bed, tasks, [1, 2], 1)
    lines = extension.read_lines(tmp_path)
    assert [line["seed"] for line in lines if line["kind"] == "own"] == [1, 2]
    assert [(line["setting"], line["scheme"], line["seed"]) for line in lines if line["kind"] == "run"] == [
        task.key for task in tasks
    ]


@pytest.mark.slow
def test_a_real_model_on_text(tmp_path):
    tokenizer = toys.word_tokenizer(*shipped_texts().values(), *recall.KEYS, *recall.VALUES, recall.PAIR)
    toys.reader_toy(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, text in shipped_texts().items():
        (tmp_path / f"{name}.txt").write_text(text)
    texts = [tmp_path / f"{name}.txt" for name in shipped_texts()]
    bed = TextBed(tmp_path / "study", "cpu", str(tmp_path / "model"), texts, contexts=2)
    assert bed.shape == Shape(4, 2, 8, 10000.0, 256)
    setting = Setting(2, (0, 2), 2, 1e-3, rows=1)
    tasks = extension.plan(bed, [setting], [1], full=False)
    (task,) = [task for task in tasks if task.candidate.name == "peak-valley"]
    line = extension.run_task(bed, task)
    assert [(point["step"], point["length"]) for point in line["points"]] == [(0, 512), (2, 256), (2, 512), (2, 1024)]
    assert sum(n for _, n in line["points"][2]["bands"]) == 2 * 16
    write_page([line], [setting], bed, "python study", tmp_path / "evidence.md")


def test_a_folder_of_other_settings_is_refused(tmp_path):
    extension.check_settings(tmp_path / "study", {"questions": 1})
    extension.check_settings(tmp_path / "study", {"questions": 1})
    with pytest.raises(SystemExit, match="holds runs of other settings"):
        extension.check_settings(tmp_path / "study", {"questions": 2})


def test_seeds_of_the_study_are_read():
    assert extension.parse_seeds("1,3-5") == [1, 3, 4, 5]


def test_permutations_are_averaged_by_seed():
    def line(name, seed, hits):
        points = [{"step": 1, "length": 8, "bands": [[hits, 10]]}]
        return {"kind": "run", "setting": "2x", "scheme": name, "seed": seed, "bases": [], "points": points}

    lines = [
        line("a", 1, 4),
        line("a", 2, 9),
        *(line(f"a: permuted {i}", 1, hits) for i, hits in [(1, 1), (2, 3), (3, 8)]),
    ]
    means, spread = Runs(lines).permuted("2x", "a", 1, 8)
    assert means == {1: pytest.approx(0.4)}
    assert spread == {1: pytest.approx(np.std([0.4, 0.1, 0.3, 0.8], ddof=1))}
