"""The report of a run: whole, safe against what users write, and made from the record alone."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.types import Task
from kshot.reports import figures
from kshot.reports.html import compare_runs, page, problems, read_record, suspicious_examples, write_report

EVIL = "<script>alert('x')</script><b>&\u2028</b>"
DRAWN = {name: getattr(figures, name) for name in ("learning_curve", "pareto")}
RECIPES = "zero-shot,random,bm25,majority"


@pytest.fixture(scope="module", autouse=True)
def _figures_are_drawn():
    with pytest.MonkeyPatch.context() as patch:
        for name, draw in DRAWN.items():
            patch.setattr(figures, name, draw)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on a task whose inputs, labels and name are hostile."""
    folder = tmp_path_factory.mktemp("report")
    rows = labelled_rows(24)
    for row in rows[::3]:
        row["output"] = EVIL
    rows[1]["input"] = f"{EVIL} the apple"
    rows.append(dict(rows[4]))
    task = write_task(folder / "task", rows, card={"name": EVIL, "kind": "classification"})
    return kshot.adapt(Task.load(task), "tiny", recipes=RECIPES, shots=4, out=folder / "run")


class Elements(HTMLParser):
    """Counts elements, and keeps what stands outside of scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self._inside = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


def test_the_report_is_one_file_with_everything(run):
    text = (run.folder / "report.html").read_text("utf-8")
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", text)  # nothing is fetched
    assert not re.search(r"url\((?!#|['\"]?#)", text)
    found = Elements(text)
    for title in (
        "Leaderboard",
        "Learning curves",
        "Quality and cost",
        "Answers",
        "Demonstrations",
        "Examples",
        "Data",
    ):
        assert title in found.text
    for name in RECIPES.split(","):
        assert name in found.text
    assert " ".join(run.in_words.split()) in " ".join(found.text.split())
    assert "1 rows repeat the input of an earlier row" in found.text
    repeat = read_record(run.folder)["results"]["repeat"]
    call = f"kshot.adapt(task, 'tiny', recipes='{RECIPES}', shots=4)"
    assert repeat == f"# Given in Python, not by name: task. Again: {call}"
    assert repeat in found.text
    assert found.tags.count("svg") == 4


def test_nothing_of_a_user_becomes_html(run):
    text = (run.folder / "report.html").read_text("utf-8")
    assert EVIL not in text
    assert "alert('x')" not in text.replace("alert(&#39;x&#39;)", "").replace("\\u003cscript\\u003ealert('x')", "")
    found = Elements(text)
    assert found.tags.count("script") == 2
    assert "<script>alert('x')</script>" in found.text  # as text


def test_the_prompts_of_the_report_are_those_that_were_sent(run):
    record = read_record(run.folder)
    segments, by_id = record["prompts"]["segments"], {e.id: e for e in run.best.task.train}
    assert set(record["prompts"]["rows"]) == {"zero-shot", "random", "bm25"}
    model = run.best.fitted.model
    for name, kept in record["prompts"]["rows"].items():
        before = []
        for (same, *more), row in zip(kept, record["rows"][name], strict=True):
            before = [*before[:same], *more]
            shown = [by_id[i] for i in row["demonstrations"]]
            sent = model.prompt(shown, by_id[row["example_id"]])[0]
            assert [tuple(segments[i]) for i in before] == [(s.role, s.text) for s in sent.segments]


def test_a_report_can_be_made_again_and_compared(run, run_cli, tmp_path):
    made = (run.folder / "report.html").read_text("utf-8")
    (run.folder / "report.html").unlink()
    assert run_cli("report", str(run.folder), "--json").json == {"report": str(run.folder / "report.html")}
    assert (run.folder / "report.html").read_text("utf-8") == made
    found = run_cli("report", str(run.folder), str(run.folder), "--json").json
    assert found["score"]["difference"] == found["bits"]["difference"] == 0
    assert found["n"] == 24
    said = run_cli("report", str(run.folder), str(run.folder)).out
    assert "points: +0.00" in said
    assert "no difference found" in said


def test_runs_without_a_common_example_cannot_be_compared(run, tmp_path):
    other = write_task(tmp_path / "other", labelled_rows(12, start=100))
    second = kshot.adapt(Task.load(other), "tiny", recipes="majority", shots=4, out=tmp_path / "run")
    with pytest.raises(UserError, match=r"must have predicted some of the same examples; they share none\."):
        compare_runs(run.folder, second.folder)


def test_questions_about_other_passages_are_other_examples(tmp_path):
    for name in ("first", "second"):
        rows = [{**row, "id": f"r{i}", "context": f"the {name} passage"} for i, row in enumerate(labelled_rows(7))]
        task = Task.load(write_task(tmp_path / name, rows, card={"kind": "classification"}))
        kshot.adapt(task, "scripted", recipes="majority", shots=4, out=tmp_path / f"run-{name}")
    with pytest.raises(UserError, match="they share none"):
        compare_runs(tmp_path / "run-first", tmp_path / "run-second")


def test_runs_that_share_one_example_have_no_interval_of_bits(run_cli, tmp_path):
    rows = [{**row, "id": f"r{i}"} for i, row in enumerate(labelled_rows(13))]
    for name, some in (("first", rows[:7]), ("second", rows[6:])):
        task = Task.load(write_task(tmp_path / name, some))
        kshot.adapt(task, "scripted", recipes="majority", shots=4, out=tmp_path / f"run-{name}")
    runs = tmp_path / "run-first", tmp_path / "run-second"
    found = run_cli("report", *runs, "--json").json
    assert (found["n"], found["bits"]["low"], found["bits"]["high"], found["bits"]["clear"]) == (1, None, None, False)
    assert "(from 1 example, too few for an interval)" in run_cli("report", *runs).out


def test_runs_by_different_metrics_are_not_compared(tmp_path):
    for name, card in (("plain", {}), ("ordered", {"order": ["animal", "food", "tool"]})):
        task = Task.load(write_task(tmp_path / name, labelled_rows(9), card={"kind": "classification", **card}))
        kshot.adapt(task, "scripted", recipes="majority", shots=4, out=tmp_path / f"run-{name}")
    with pytest.raises(UserError, match="by quadratic_kappa and .*run-plain by accuracy. Make both of the same task"):
        compare_runs(tmp_path / "run-ordered", tmp_path / "run-plain")


def test_an_unfinished_run_has_a_report_that_says_so(run, tmp_path):
    folder = tmp_path / "unfinished"
    shutil.copytree(run.folder, folder)
    results = json.loads((folder / "results.json").read_text("utf-8"))
    (folder / "results.json").unlink()
    record = read_record(run.folder)
    rows = {name: [row | {"probs": list(row["probs"])} for row in some] for name, some in record["rows"].items()}
    kept = {"results": results | {"choice": None}, "samples": rows, "prompts": record["prompts"]}
    (folder / "unfinished.json").write_text(json.dumps(kept))
    text = Elements(write_report(folder).read_text("utf-8")).text
    assert "Unfinished. Some recipes are still to come; nothing is chosen yet." in text
    assert "majority" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "there is no run in "),
        (
            lambda f: (f / "manifest.json").write_text('{"format": 99}'),
            r"must be a run of this version of kshot \(format 3\); its format is 99\. Make the run again",
        ),
        (lambda f: (f / "results.json").unlink(), "has no finished recipe yet, so there is nothing to report"),
        (
            lambda f: (f / "results.json").write_text('{"leaderboard": []}'),
            "was made by an older kshot, without what a report needs",
        ),
    ],
)
def test_folders_without_a_record_are_refused(run, run_cli, tmp_path, change, message):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    change(folder)
    outcome = run_cli("report", str(folder))
    assert outcome.code == 2
    assert re.search(message, " ".join(outcome.err.split()))


def small_record(bits: list[float], answers: list[str]):
    row = {"gold": "a", "candidates": ["a", "b"], "probs": [0.5, 0.5], "score": 0.0, "demonstrations": []}
    rows = [
        row | {"example_id": f"e{i}", "bits": b, "answer": x}
        for i, (b, x) in enumerate(zip(bits, answers, strict=True))
    ]
    examples = [{"id": f"e{i}", "input": f"text {i}", "output": "a", "context": None} for i in range(len(bits))]
    return {
        "rows": {"one": rows, "two": rows, "three": rows},
        "prompts": {"examples": examples},
        "results": {"removed": [], "task": {"labels": ["a", "b"]}},
    }


def test_an_example_that_surprises_every_recipe_is_suspicious():
    record = small_record([0.4, 0.5, 0.6, 0.5, 0.4, 7.0], ["a"] * 5 + ["b"])
    assert suspicious_examples(record) == ["e5"]
    found = problems(record)
    assert found[0] == "1 labels have no example in the stream: b"
    assert found[1].startswith("e5: nearly every recipe is surprised by its output 'a'; look at its label: text 5")
    assert suspicious_examples(small_record([0.4, 0.5, 0.6, 0.5, 0.4, 7.0], ["a"] * 6)) == []
    assert suspicious_examples(small_record([0.4, 0.5, 0.6, 0.5, 0.4, 0.7], ["a"] * 5 + ["b"])) == []


def big_record(n: int, n_recipes: int):
    """1,000 examples and 20 recipes with 16 demonstrations each, as a run would leave them."""
    segments = [["instruction", "Say which.\n\n"]]
    examples, labels = [], [f"label {i}" for i in range(6)]
    for i in range(n):
        words = f"text number {i} with some words that make it as long as a sentence in a news ticker"
        examples.append({"id": f"e{i}", "input": words, "context": None, "output": labels[i % 6], "choices": []})
        segments += [["demonstration", f"Text: {words}\nLabel:"], ["answer", f" {labels[i % 6]}\n\n"]]
        segments.append(["query", f"Text: {words}\nLabel:"])
    rows, prompts, board = {}, {}, []
    for r in range(n_recipes):
        name = f"recipe-{r}"
        rows[name] = [
            {"recipe": name, "position": i, "example_id": e["id"], "gold": e["output"], "candidates": labels,
             "probs": [0.2, 0.3, 0.1, 0.1, 0.1, 0.2], "answer": labels[(i + r) % 6], "score": float(r % 6 == 0),
             "bits": 1 + (i % 7) / 3, "demonstrations": [], "seconds": 0.1, "fit_seconds": 0.0, "prompt_tokens": 300,
             "tokens": 30.0, "fit_tokens": 0.0}
            for i, e in enumerate(examples)
        ]  # fmt: skip
        prompts[name] = [
            [0, 0, *[x for d in range(16) for x in (1 + 3 * ((i * 7 + d) % n), 2 + 3 * ((i * 7 + d) % n))], 3 + 3 * i]
            for i in range(n)
        ]
        board.append({"recipe": name, "status": "done", "metric": 0.5, "metric_low": 0.4, "metric_high": 0.6,
                      "metric_n": n, "n": n, "bits_per_example": 1.0, "query_tokens": 300 + r, "query_ms": 5.0,
                      "fit_seconds": 0.0, "deployed": 0.6, "deployed_low": 0.5, "deployed_high": 0.7,
                      "deployed_bits": None})  # fmt: skip
    results = {
        "leaderboard": board, "choice": None, "removed": [], "selections": {}, "failures": {}, "repeat": "again",
        "environment": {},
        "expected_when_deployed": {name: {"score": None, "bits": None} for name in rows}, "kshot_version": "0",
        "task": {"name": "big", "kind": "classification", "labels": labels, "metrics": ["accuracy"], "n_train": n},
        "config": {"model_name": "m", "seed": 0},
    }  # fmt: skip
    return {"results": results, "rows": rows, "prompts": {"examples": examples, "segments": segments, "rows": prompts}}


@pytest.mark.slow
def test_a_large_report_stays_small():
    assert len(page(big_record(1000, 20)).encode()) < 15e6


def test_a_report_counts_the_examples_that_are_known_without_repeated_rows():
    record = big_record(24, 2)
    record["results"]["removed"] = ["e22", "e23"]
    text = page(record)
    assert "the model that knows all 22 examples" in text
    assert "24 training examples" in text


BREAKS = """
from dataclasses import dataclass

import kshot


@dataclass(frozen=True)
class Breaks(kshot.Selector):
    per_query = True

    def fit(self, pool, *, model, rng):
        if len(pool) > 5:
            raise RuntimeError("<i>no more</i>")
        return self

    def select(self, question, k, *, rng):
        return [0]
"""


def test_a_recipe_that_fails_is_shown_and_the_others_go_on(tmp_path, run_cli):
    (tmp_path / "breaks.py").write_text(BREAKS)
    task, name = write_task(tmp_path / "task", labelled_rows(12)), f"{tmp_path / 'breaks.py'}:Breaks"
    run = run_cli(
        "adapt",
        task,
        "--model",
        "tiny",
        "--recipes",
        f"{name},majority,zero-shot",
        "--shots",
        2,
        "--out",
        tmp_path / "a",
    )
    assert run.code == 0
    assert "failed: RuntimeError: <i>no more</i>; the others go on" in " ".join(run.err.split())
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["chosen"] in ("majority", "zero-shot")
    assert results["leaderboard"][-1]["status"] == "failed"
    text = (tmp_path / "a" / "report.html").read_text()
    assert "RuntimeError: &lt;i&gt;no more" in text
    alone = run_cli("adapt", task, "--model", "tiny", "--recipes", name, "--shots", 2, "--out", tmp_path / "b")
    assert alone.code == 3
    assert "At least one recipe that asks the model must be finished to choose from" in alone.err
    assert "RuntimeError: <i>no more</i>. What is done is kept;" in " ".join(alone.err.split())


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script")
@pytest.mark.parametrize(("ordered", "error"), [(True, "0.100"), (False, "0.350")])
def test_the_calibration_of_ordered_labels_counts_what_is_right(ordered, error):
    """Of ordered labels a near miss has a score above 0, and yet it is wrong."""
    script = files("kshot.reports").joinpath("report.js").read_text("utf-8")
    rows = [[i, "mid" if i else "low", 0.5 if i else 1, 1.0, ["mid" if i else "low", 0.4, "high", 0.3]] for i in (0, 1)]
    record = {"ordered": ordered, "rows": [rows], "examples": [["", "low"], ["", "high"]]}
    stubs = f"""const record = {json.dumps(record)}, said = [];
    const place = {{append: () => {{}}, replaceChildren: () => {{}}, style: {{}}}}, at = () => place;
    const make = (tag, text) => {{ said.push(text); return place; }};
    """
    body = script[script.index("function calibration") : script.index("function promptOf")]
    asked = ["node", "-e", f"{stubs}{body}calibration(0); console.log(said.join(' '));"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"Expected calibration error {error} over 2 answers" in told


@pytest.mark.slow
def test_the_report_in_a_browser(run, tmp_path):
    """Chromium opens it, also a large one within 2 s, without an error in its console, and every control works."""
    chromium = shutil.which("chromium")
    assert chromium, "this check needs Chromium: apt-get install chromium"
    big = tmp_path / "big.html"
    big.write_text(page(big_record(1000, 20)), "utf-8")
    act = """<script>
    at("recipe").selectedIndex = 1; choose();
    for (const which of ["wrong", "disagree", "all-wrong", "odd", "all"]) {
      at("which").value = which; at("which").oninput();
    }
    const one = document.querySelector("#list details");
    one.open = true; one.ontoggle(); for (const see of one.querySelectorAll("button")) see.click();
    if (!at("on").disabled) at("on").onclick();
    const marks = document.querySelectorAll("pre mark").length;
    document.title = `ready in ${Math.round(performance.now())} ms, ${marks}`;
    </script></body>"""
    for source in (run.folder / "report.html", big):
        file = tmp_path / f"{source.stem}-tried.html"
        file.write_text(source.read_text("utf-8").replace("</body>", act), "utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
                 f"--user-data-dir={tmp_path / source.stem}", "--dump-dom"]  # fmt: skip
        done = subprocess.run(
            [chromium, *flags, f"file://{file}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=dict(os.environ),
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        ready = re.search(r"<title>ready in (\d+) ms, (\d+)</title>", done.stdout)
        assert ready, done.stdout[:500]
        assert int(ready[1]) < 2000
