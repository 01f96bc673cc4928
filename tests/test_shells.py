"""What shells and environments do to a command: pipes that end, streams that are closed, encodings, homes, signals."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

import kshot
from conftest import labelled_rows, write_task
from kshot.cli import entry, main, streams
from kshot.cli.output import guarded, print_json, resumable
from kshot.core.errors import ModelError, StorageError, UserError, keeping
from kshot.core.paths import at_home, path_of, written
from kshot.core.termination import TerminatedError

LABEL = "très bien"
# All that is asked of one process: 12 of them would take 12 s
SEVERAL = """
import json, os, sys
import kshot.cli.main as m
for command in json.loads(os.environ["COMMANDS"]):
    sys.argv = ["kshot", *command]
    try:
        m.main()
    except SystemExit as end:
        sys.stderr.write(f"\\nCODE {end.code or 0}\\n")
"""


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A run with a label that is not ASCII."""
    rows = [{**row, "output": LABEL if row["output"] == "tool" else row["output"]} for row in labelled_rows(12)]
    task = write_task(tmp_path_factory.mktemp("shells") / "task", rows)
    kshot.adapt(task, "scripted", recipes="bm25", shots=4, out=task.parent / "run")
    return task.parent


def shell(folder, command, **env):
    """Run a command in a shell, where `$k` is kshot; return its exit code, stdout and stderr, as bytes."""
    source = Path(kshot.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(source), "k": f"{sys.executable} -m kshot.cli.main", **env}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, timeout=120)
    return done.returncode, done.stdout, done.stderr.decode()


# Streams


def test_output_never_fails_for_its_encoding(learnt):
    commands = [["predict", "run", "-"], ["validate", "task"], ["predict", "run", "task/train.jsonl", "--json"]]
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "COMMANDS": json.dumps(commands)}
    code, out, err = shell(
        learnt, f"printf 'drill saw \\303\\251\\n' | {sys.executable} -c \"$SEVERAL\"", SEVERAL=SEVERAL, **env
    )
    assert (code, err.count("CODE 0")) == (0, 3)
    first, *_, last = out.decode("ascii").splitlines()
    assert first == "tr\\xe8s bien"
    assert set(json.loads(last)["predictions"][0]["probs"]) == {"animal", "food", LABEL}
    assert "labels animal, food, tr\\xe8s bien" in out.decode()


@pytest.mark.parametrize(
    ("encoding", "value", "shown"),
    [
        ("ascii", "è", b"\\u00e8"),
        ("utf-8", "è", "è".encode()),
        ("utf-8", "\ud800", b"\\ud800"),
        ("latin-1", "è", b"\xe8"),
    ],
)
def test_json_is_json_in_any_encoding(monkeypatch, encoding, value, shown):
    written_to = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written_to, encoding=encoding))
    print_json({"answer": value})
    sys.stdout.flush()
    assert shown in written_to.getvalue()
    assert json.loads(written_to.getvalue().decode(encoding)) == {"answer": value}


def test_a_reader_that_has_gone_ends_the_command_quietly(learnt):
    (learnt / "many.txt").write_text("the cat\n" * 800)
    command = "$k predict run many.txt --json | head -c 1 > /dev/null; exit ${PIPESTATUS[0]}"
    assert shell(learnt, command)[::2] == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["--help", "recipes", "recipes --json", "report run", "validate task", "predict run many"]
)
def test_every_command_ends_quietly_where_nobody_reads(learnt, command):
    (learnt / "many").write_text("the cat\n" * 3000)
    code, _, err = shell(learnt, f"$k {command} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}")
    assert code in (0, 141)
    assert err == ""
    for full in (">/dev/full", ">&-"):
        code, _, err = shell(learnt, f"$k {command} {full}")
        assert code == 3
        assert err.startswith("error: Results must be printed where they can be written; stdout says: ")
        assert err.count("\n") == 1


def test_a_pipe_without_a_reader():
    read, write = os.pipe()
    os.close(read)
    raw = streams._Results(write, "w")
    with pytest.raises(SystemExit) as ended:
        raw.write(b"a")
    assert ended.value.code == 141
    assert raw.write(b"abc") == 3  # what is left is given up
    with streams._Remarks(os.dup(write), "w") as remarks:
        assert remarks.write(b"ab") == 2  # nor does a run end for what it says beside
    raw.close()


def test_a_full_disk_is_told(tmp_path):
    stream = streams._text(None, streams._Results(os.open("/dev/full", os.O_WRONLY), "w"))
    stream.write("a")
    with pytest.raises(StorageError, match="where they can be written; stdout says: No space left on device. Print"):
        stream.flush()
    stream.close()


@pytest.mark.slow
def test_closed_streams(learnt):
    """Nothing that is opened later gets their numbers: a database would be printed into."""
    both = "$k predict run <&- 2>&1; echo code $?; $k recipes 2>&- >&-; echo code $?"
    assert shell(learnt, both)[1].decode().splitlines()[1:] == ["code 2", "code 3"]
    code, out, _ = shell(learnt, "echo a drill | $k predict run 2>&-")
    assert (code, out.decode()) == (0, f"{LABEL}\n")


# Errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("--k must be 1."), 2, "error: --k must be 1.\n"),
        (ModelError("It failed."), 3, "error: It failed.\n"),
        (StorageError("No space."), 3, "error: No space.\n"),
        (KeyboardInterrupt(), 130, "error: interrupted.\n"),
        (TerminatedError(), 143, "error: terminated.\n"),
        (
            MemoryError(),
            3,
            "error: there must be memory for the model and its prompts; there is too little. Free some.\n",
        ),
        (
            PermissionError(13, "Permission denied", "/cache/x"),
            3,
            "error: '/cache/x' must be usable; the system says: Permission denied. Make it so.\n",
        ),
        (OSError("odd"), 3, "error: a file or connection must be usable; the system says: odd. Make it so.\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_each_error_says_and_its_exit_code(capsys, error, code, said):
    def command():
        raise error

    with pytest.raises(typer.Exit) as ended:
        guarded(command)()
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == said


def test_only_a_mistake_of_kshot_shows_where_it_is(capsys):
    with pytest.raises(typer.Exit) as ended:
        guarded(lambda: [][1])()
    told = capsys.readouterr().err
    assert ended.value.exit_code == 3
    assert "Traceback" in told
    assert told.endswith("IndexError: list index out of range. Please report it with the lines above.\n")


def test_what_was_stopped_says_whether_something_is_kept(capsys):
    def early():
        raise KeyboardInterrupt

    @keeping()
    def late():
        raise KeyboardInterrupt

    for guard, command, said in (
        (resumable, late, "interrupted; what was computed is kept, and the same command resumes."),
        (resumable, early, "interrupted; nothing was computed yet."),
        (guarded, early, "interrupted."),
    ):
        with pytest.raises(typer.Exit) as ended:
            guard(command)()
        assert ended.value.exit_code == 130
        assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(
    ("interrupted", "said"),
    [
        ("kshot.verbs.adapt.Prepared.load_models", "nothing was computed yet."),
        ("kshot.verbs.adapt.Race.run", "what was computed is kept, and the same command resumes."),
        ("kshot.cli.demo_command._introduce", "nothing was computed yet."),
    ],
)
def test_a_run_keeps_what_was_computed_once_it_has_a_folder(learnt, tmp_path, monkeypatch, run_cli, interrupted, said):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted, interrupt)
    adapt = ("adapt", learnt / "task", "--model", "scripted", "--recipes", "bm25", "--shots", 4)
    command = ("demo",) if "demo" in interrupted else adapt
    done = run_cli(*command, "--out", tmp_path / "run")
    assert (done.code, done.err.splitlines()[-1]) == (130, f"error: interrupted; {said}")


def test_an_interrupt_while_the_command_line_is_imported(monkeypatch, capsys):
    class Interrupted(ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "kshot.cli.main", Interrupted("kshot.cli.main"))
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was computed yet.\n"


@pytest.mark.parametrize(
    ("error", "code", "word"), [(TerminatedError, 143, "terminated"), (KeyboardInterrupt, 130, "interrupted")]
)
def test_a_signal_before_a_command_begins(monkeypatch, capsys, error, code, word):
    def sent():
        raise error

    monkeypatch.setattr(main, "take_over", lambda: None)
    monkeypatch.setattr(main, "app", sent)
    monkeypatch.setattr(main, "failed", lambda text, code: sys.stderr.write(f"{text}\n") and code)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert (ended.value.code, capsys.readouterr().err) == (code, f"{word}; nothing was computed yet.\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("seconds", [1.5, 4])
def test_signals_at_any_stage(learnt, tmp_path, sent, code, word, seconds):
    """While it loads, or races: a sentence, and the same command goes on."""
    command = f"exec $k adapt task --model tiny --recipes fine-tune,icl+ft --out {tmp_path}/run"
    source = Path(kshot.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(source), "k": f"{sys.executable} -m kshot.cli.main"}
    process = subprocess.Popen(["bash", "-c", command], cwd=learnt, env=env, stderr=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    kept, nothing = "what was computed is kept, and the same command resumes", "nothing was computed yet"
    assert err.splitlines()[-1] in (f"error: {word}; {kept}.", f"error: {word}; {nothing}.")
    assert "Traceback" not in err


def test_the_command_to_go_on_with_can_be_pasted(tmp_path, run_cli, words_task):
    done = run_cli(
        "adapt", words_task, "--model", "scripted", "--recipes", "bm25", "--shots", 1, "--out", tmp_path / "a run"
    )
    assert f"(kshot predict '{tmp_path}/a run')" in done.out


# Homes and names


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_home_folder_is_meant_wherever_a_path_is_given(home, run_cli, words_task):
    (home / "task").symlink_to(words_task)
    (home / "words.json").write_text('{"cat": "animal"}')
    (home / "config.yaml").write_text("out: ~/run\nmodel: scripted:~/words.json\nrecipes: bm25\nshots: 3\n")
    (home / "asked.txt").write_text("the cat\n")
    (home / "mine.py").write_text("")
    for command in (
        ("adapt", "~/task", "--config", "~/config.yaml"),
        ("predict", "~/run", "~/asked.txt"),
        ("evaluate", "~/run", "~/task/test.jsonl", "--limit", 2),
        ("report", "~/run"),
        ("report", "~/run", "~/run"),
        ("validate", "~/task"),
        ("select", "~/task", "--selector", "bm25", "-k", 2, "--query", "cat", "--out", "~/selected.txt"),
    ):
        assert run_cli(*command).code == 0, command
    run = kshot.adapt("~/task", "scripted", recipes="majority", out="~/other")
    run.best.save(Path("~/saved"))
    assert kshot.load("~/saved").predict(["a"]) == kshot.load("~/other").predict(["a"])
    assert kshot.Task.load("~/task").train == kshot.Task.load(words_task).train
    with pytest.raises(UserError, match=f"{home}/none"):
        kshot.load_model("scripted:~/none.json")
    assert (
        "~/mine.py must define" in run_cli("adapt", "~/task", "--model", "scripted", "--recipes", "~/mine.py:Mine").err
    )
    assert {path.name for path in Path().iterdir()} == {"home"}  # and no folder that is called ~
    assert {"run", "other", "saved", "selected.txt"} < {path.name for path in home.iterdir()}


def test_what_stands_for_a_home(home, monkeypatch):
    assert at_home("~") == str(home)
    assert path_of(Path("~/a:b")) == home / "a:b"
    assert at_home("gguf:~/a") == f"gguf:{home}/a"
    for same in ("a~b", "hf://name", "builtin:x", "$HOME/x", "/x/~", "", "tiny"):
        assert at_home(same) == same
    with pytest.raises(
        UserError, match="'~no-such-user/x' must begin with a home folder that is known here. Write the"
    ):
        at_home("~no-such-user/x")
    Path("~odd").mkdir()
    assert at_home("~odd") == "~odd"


def test_names_that_are_no_text_are_refused_at_the_start(home, run_cli, words_task):
    odd = os.fsdecode(b"caf\xe9")
    with pytest.raises(
        UserError, match=r"'caf\\xe9' must be a name in UTF-8, to be written down. Rename the file or fold"
    ):
        written(odd)
    try:
        Path(odd).mkdir()
    except OSError:
        pytest.skip("this disk has no such names")
    (Path(odd) / "t.jsonl").write_bytes((words_task / "train.jsonl").read_bytes())
    for given in ({"task": f"{odd}/t.jsonl"}, {"out": f"{odd}/run"}, {"model": f"scripted:{odd}/m.json"}):
        how = {"task": words_task, "model": "scripted", "recipes": "majority", "out": "run", **given}
        with pytest.raises(UserError, match="must be a name in UTF-8"):
            kshot.adapt(**how)
    os.chdir(odd)
    with pytest.raises(UserError, match="must be a name in UTF-8"):
        kshot.adapt(words_task, "scripted", recipes="majority", out="run")
    assert not Path("run").exists()
    how = ("--model", "scripted", "--recipes", "majority", "--shots", 2)
    assert run_cli("adapt", words_task, *how, "--out", home / "run").code == 0  # of no concern there


def test_an_answer_is_one_line_whatever_breaks_lines(run_cli, tmp_path, monkeypatch):
    labels = ["one\u2028two", "three\x0bfour", "five"]
    rows = [
        {"input": f"{word} {i}", "output": label} for i in range(3) for word, label in zip("abc", labels, strict=True)
    ]
    task = write_task(tmp_path / "task", rows, card={"kind": "classification"})
    kshot.adapt(task, "scripted", recipes="bm25", shots=2, out=tmp_path / "run")
    answers = run_cli("predict", tmp_path / "run", input="a 0\nb 0\nc 0\n").out
    assert len(answers.splitlines()) == 3


ENVIRONMENTS = {
    "optimised": "PYTHONOPTIMIZE=1",
    "warnings are errors": "PYTHONWARNINGS=error",
    "no home": "-u HOME",
    "a home that is not there": "HOME=/nonexistent",
    "no folder for what is temporary": "TMPDIR=/nonexistent",
    "a dumb and narrow terminal": "NO_COLOR=1 TERM=dumb COLUMNS=20",
    "another order of hashes": "PYTHONHASHSEED=7",
}


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_environments_change_no_result(learnt, tmp_path, recorded, environment):
    how = "adapt task --model scripted --recipes bm25,majority,random,tfidf-lr --shots 4"
    code, out, err = shell(learnt, f"env {environment} $k {how} --out {tmp_path}/run")
    assert (code, "error" in err, "Traceback" in err) == (0, False, False)
    assert b"report: " in out
    assert shell(learnt, f"$k {how} --out {tmp_path}/usual")[0] == 0
    assert recorded(tmp_path / "run") == recorded(tmp_path / "usual")
