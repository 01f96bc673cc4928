"""SIGTERM, as Slurm, Docker and `kill` send it, keeps what Ctrl-C keeps, and the same command goes on."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.cli.main import main
from kshot.core.termination import interrupted_by_sigterm
from kshot.core.types import Task
from kshot.learners.trained import TrainedLearner
from kshot.store.files import write_file

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
HOW = {"recipes": "fine-tune:lr=1e-2,steps=1", "shots": 2, "limit": 6}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("tasks") / "words", labelled_rows(6))


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


@pytest.fixture(scope="module")
def whole(task, tiny, tmp_path_factory, recorded):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    kshot.adapt(Task.load(task), tiny, out=folder, **HOW)
    return recorded(folder)


def terminated(act, *sent, again=False):
    """Act in a process that is sent a signal after its third prediction, and again while it writes its state."""
    process = os.fork()
    if not process:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        predict, n = TrainedLearner.predict_next, [0]

        def counted(self, *args, **how):
            found = predict(self, *args, **how)
            n[0] += 1
            if n[0] == 3:
                os.kill(os.getpid(), sent[0])
            return found

        def write(file, fill):
            def interrupted(partial):
                fill(partial)
                if again:
                    os.kill(os.getpid(), sent[0])

            write_file(file, interrupted)

        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(TrainedLearner, "predict_next", counted)
                patch.setattr("kshot.models.training_state.write_file", write)
                act()
        except SystemExit as ended:
            os._exit(ended.code)
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitpid(process, 0)[1]


def n_learnt(folder: Path) -> int:
    """Return how many examples the kept state of training has learnt."""
    (log,) = (folder / "training").glob("fine-tune*.jsonl")
    assert len(list((folder / "training").glob("*.safetensors"))) == 1
    return len(log.read_text().splitlines())


@pytest.mark.parametrize("again", [pytest.param(False, marks=pytest.mark.slow), True], ids=["once", "twice"])
def test_python_is_ended_by_sigterm_once_the_state_is_written(task, tiny, whole, tmp_path, recorded, again):
    def adapt():
        return kshot.adapt(Task.load(task), tiny, out=tmp_path / "run", **HOW)

    assert os.WTERMSIG(terminated(adapt, signal.SIGTERM, again=again)) == signal.SIGTERM
    assert n_learnt(tmp_path / "run") == 2
    adapt()
    assert recorded(tmp_path / "run") == whole
    assert not list((tmp_path / "run").rglob(".*"))


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_the_command_line_writes_the_state_and_ends(task, tmp_path, monkeypatch, sent, code):
    flags = (text for name, value in HOW.items() for text in (f"--{name}", str(value)))
    command = ["kshot", "adapt", str(task), "--model", "tiny", "--out", str(tmp_path / "run"), *flags]
    monkeypatch.setattr(sys, "argv", command)
    assert os.waitstatus_to_exitcode(terminated(main, sent)) == code
    assert n_learnt(tmp_path / "run") == 2


def test_handlers_of_others_stay_and_ours_goes():
    def other(*_):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, other)
    try:
        with interrupted_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) is other
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with interrupted_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        thread = threading.Thread(target=interrupted_by_sigterm().__enter__)  # which may set none
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


LOST = """
import os, signal, time
from kshot.core.termination import interrupted_by_sigterm

class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

with interrupted_by_sigterm():
    try:
        Late()  # where Python drops what a handler raises
        time.sleep(60)
    except KeyboardInterrupt:
        print("saved", flush=True)
"""


def test_sigterm_is_not_lost_where_python_drops_exceptions(run_process):
    done = run_process("-c", LOST)
    assert (done.code, done.out) == (-signal.SIGTERM, "saved\n")
    assert "Traceback" not in done.err
