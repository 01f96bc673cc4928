"""The training of an encoder goes on after an interruption, to the same bits."""

import pytest
import torch
from safetensors import safe_open

import kshot
from conftest import labelled_rows
from encoders import make_tiny_encoder
from kshot.core.progress import Silence
from kshot.encoders import kept_training
from kshot.encoders.encoder_training import train_retriever, train_reward_model
from kshot.encoders.kept_training import KeptTraining
from kshot.verbs.retriever import RetrieverRun, parse_settings

N_ROWS = 12
BATCHES = [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9, 10], [11]]


class StoppedError(Exception):
    """The training is stopped from outside."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def retriever(encoder, **how):
    texts = [row["input"] for row in labelled_rows(4 * N_ROWS)]
    columns = {
        name: texts[i * N_ROWS : (i + 1) * N_ROWS] for i, name in enumerate(("query", "document_0", "document_1"))
    }
    columns["scores"] = [[0.0, -1.0 - i / 9] for i in range(N_ROWS)]
    how = {"lr": 1e-2, "alpha": 0.2, "temperature": 0.05, "distil": True, "seed": 3, **how}
    return train_retriever(encoder, columns, BATCHES, **how)._model


def reward(encoder, **how):
    texts = [row["input"] for row in labelled_rows(4 * N_ROWS)]
    columns = {
        name: texts[i * N_ROWS : (i + 1) * N_ROWS] for i, name in enumerate(("query", "document_0", "document_1"))
    }
    return train_reward_model(encoder, columns, BATCHES, **{"lr": 1e-2, "seed": 3, **how})._model


KINDS = {"retriever": retriever, "reward": reward}


def bits(model):
    return {name: values.detach().numpy().tobytes() for name, values in model.state_dict().items()}


def stopped(train, encoder, file, n_steps, told, **how):
    """Stop a training after some steps; each of them is kept."""
    n_rows = sum(map(len, BATCHES[:n_steps]))

    def advance(n):
        told.append(n)
        if sum(told) >= n_rows:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(encoder, kept=KeptTraining(file, told.append), progress=advance, **how)


@pytest.fixture
def each_step(monkeypatch):
    monkeypatch.setattr(kept_training, "SECONDS_BETWEEN_STATES", -1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [[3], [1, 2, 3, 4, 5]], ids=["once", "often"])
def test_a_stopped_training_goes_on_to_the_same_bits(encoder, each_step, tmp_path, kind, stops):
    train, file = KINDS[kind], tmp_path / "state.safetensors"
    expected = bits(train(encoder))
    for n_steps in stops:
        stopped(train, encoder, file, n_steps, [])
    said, told = [], []
    found = train(encoder, kept=KeptTraining(file, said.append), progress=told.append)
    assert bits(found) == expected
    assert told[0] == sum(map(len, BATCHES[: stops[-1] - 1]))  # it was stopped before that step was kept
    assert sum(told) == N_ROWS
    assert said == []


@pytest.mark.slow
def test_a_stopped_stage_goes_on_and_leaves_no_state(encoder, each_step, words_task, tmp_path):
    quick = (
        f"encoder={encoder},reward_encoder={encoder},queries=12,candidates=6,depth=12,epochs=2,batch=4,target=reward"
    )
    found = []
    for name, stops in (("whole", []), ("stopped", ["learning the reward", "learning the retriever"])):
        folder = tmp_path / name
        RetrieverRun.start(folder, [str(words_task)], settings=parse_settings(quick))
        for stage in stops:
            with pytest.raises(StoppedError):
                RetrieverRun.open(folder, progress=Stopping(stage)).train(kshot.load_model("tiny"), iterations=1)
            assert list(folder.glob("iteration-1/*-training.safetensors"))
        RetrieverRun.open(folder).train(kshot.load_model("tiny"), iterations=1)
        assert not list(folder.glob("iteration-1/*-training.safetensors"))
        found.append((folder / "iteration-1/retriever/model.safetensors").read_bytes())
    assert found[0] == found[1]


class Stopping(Silence):
    """Stops the work at the third report of a stage."""

    def __init__(self, stage):
        self.stage, self.n_reports = stage, 0

    def begin(self, what, total, **_):
        self.n_reports = 3 if what == self.stage else 0

    def advance(self, n):
        self.n_reports -= 1
        if self.n_reports == 0:
            raise StoppedError


def ready(width=3):
    """Return a small network with its optimiser and schedule, after a step."""
    torch.default_generator.manual_seed(width)
    model = torch.nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 1))
    step(model, optimizer, schedule)
    return model, optimizer, schedule


def step(model, optimizer, schedule):
    model(torch.rand(4, model.in_features)).square().sum().backward()
    optimizer.step()
    schedule.step()
    model.zero_grad()


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")
def test_a_state_is_tensors_and_json_and_brings_everything_back(each_step, tmp_path):
    file = tmp_path / "folder" / "state.safetensors"
    with torch.random.fork_rng(devices=[]):
        ours = ready()
        step(*ours)
        KeptTraining(file, print, "key").keep(2, *ours)
        step(*ours)
        theirs = ready()
        kept = KeptTraining(file, print, "key")
        assert kept.n_done() == 2
        kept.go_on(*theirs)
        kept.draw_on()
        step(*theirs)
    assert bits(theirs[0]) == bits(ours[0])
    assert theirs[2].get_last_lr() == ours[2].get_last_lr()
    with safe_open(file, framework="pt") as opened:
        assert set(opened.metadata()) == {"kshot", "sha256"}
    assert [other.name for other in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("at", [-9, 12, 300, None], ids=["weights", "header", "text", "another"])
def test_a_state_that_cannot_be_used_is_said_and_the_training_begins_again(each_step, tmp_path, at):
    file, said = tmp_path / "state.safetensors", []
    with torch.random.fork_rng(devices=[]):
        KeptTraining(file, print, "key").keep(1, *ready())
    content = bytearray(file.read_bytes())
    if at:
        content[at] ^= 1
        file.write_bytes(content)
    kept = KeptTraining(file, said.append, "key" if at else "other")
    assert kept.n_done() == 0
    why = "damaged" if at else "of another training"
    assert said == [f"{file} is {why}: the training begins again"]
    assert not file.exists()
