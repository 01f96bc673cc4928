"""Studies that train networks: cells are kept, resumed and done side by side to the same result, and errors help."""

import json
import queue
from pathlib import Path

import numpy as np
import pytest
import torch

import kshot
from kshot.core.errors import ModelError, UserError
from kshot.core.lessons import DivergedError
from kshot.core.progress import Silence
from kshot.studies import networks
from kshot.studies.experiment import Cell, Claim
from kshot.studies.networks import AttentionOnly, Decoder, Recurrent, made, n_weights, recurrent_as_large, train
from kshot.verbs import train_networks

OWN = Path(__file__).parent.parent / "examples" / "own" / "experiment.py"
SMALL = "induction(bursts=0/2,classes=8,labels=4,dim=8,items=4,places=9,batch=8)"
MINUTES = 0.048  # of the usual 12: 20 steps a cell


class Stopped(Exception):
    """What Ctrl-C is to the tests."""


class StopsAfter(Silence):
    """Progress that stops the work after a number of steps."""

    def __init__(self, n):
        self.left, self.heard = n, []

    def advance(self, n):
        self.left -= n
        if self.left <= 0:
            raise Stopped

    def say(self, text):
        self.heard.append(text)


def found(folder):
    return json.loads((folder / "study.json").read_text("utf-8"))["rows"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a small study, done without interruption and in this process."""
    folder = tmp_path_factory.mktemp("studies") / "whole"
    kshot.experiment(SMALL, out=folder, minutes=MINUTES)
    return folder


def test_a_study_is_printed_kept_and_shown_on_a_page(tmp_path, run_cli):
    out = tmp_path / "kept"
    done = run_cli("study", f"{OWN}:Margin", "--minutes", 3, "--workers", 1, "--out", out, "--json").json
    assert done["claims"][0].keys() == {"sentence", "measured", "bar", "below", "holds"}
    assert [row["gap"] for row in done["table"]] == [0.0, 0.2]
    assert done["plots"][0]["curves"][0]["x"][-1] == 120  # a quarter of the usual steps, less those after the tenth
    page = (out / "study.html").read_text("utf-8")
    assert "A gap saves mistakes" in page
    assert page.count("<svg") == 1
    assert not [mark for mark in ("<script", "src=", "http://cdn") if mark in page]
    again = run_cli("study", f"{OWN}:Margin", "--minutes", 3, "--workers", 1, "--out", out)
    assert "2 of 2 cells are there already" in again.err
    assert ("yes" if done["claims"][0]["holds"] else "NO ") + " A gap saves mistakes" in again.out
    assert str(out / "study.html") in again.out


def test_an_interrupted_study_goes_on_to_the_same_result(whole, tmp_path, monkeypatch):
    """In the middle of a cell too, from the state that was kept last; a damaged file is made again, and it is said."""
    monkeypatch.setattr(networks, "STEPS_BETWEEN_STATES", 5)
    broken = tmp_path / "broken"
    with pytest.raises(Stopped) as stopped:
        kshot.experiment(SMALL, out=broken, minutes=MINUTES, progress=StopsAfter(33))  # in the second cell
    assert "the same command resumes" in stopped.value.__notes__[0]
    (state,) = (broken / "cells").glob("*.safetensors")
    progress = StopsAfter(10**9)
    kshot.experiment(SMALL, out=broken, minutes=MINUTES, progress=progress)
    assert 10**9 - progress.left == 20  # of the second cell, those that were kept told at once
    assert found(broken) == found(whole)
    assert not state.exists()

    (first, second) = sorted((broken / "cells").glob("*.json"))
    first.write_text(first.read_text("utf-8").replace("0.", "1.", 1))
    second.unlink()
    with pytest.raises(Stopped):
        kshot.experiment(SMALL, out=broken, minutes=MINUTES, progress=StopsAfter(28))
    (state,) = (broken / "cells").glob("*.safetensors")
    state.write_bytes(state.read_bytes()[:-1])
    progress = StopsAfter(10**9)
    kshot.experiment(SMALL, out=broken, minutes=MINUTES, progress=progress)
    assert any("is damaged: this training begins again" in text for text in progress.heard)
    assert found(broken) == found(whole)


def test_a_damaged_cell_is_done_again(tmp_path):
    kshot.experiment(f"{OWN}:Margin", out=tmp_path, minutes=1)
    before = found(tmp_path)
    for file in (tmp_path / "cells").glob("*.json"):
        file.write_text(file.read_text("utf-8").replace('"mistakes": ', '"mistakes": 1'))
    progress = StopsAfter(10**9)
    kshot.experiment(f"{OWN}:Margin", out=tmp_path, minutes=1, progress=progress)
    assert sum("is damaged: this cell is done again" in text for text in progress.heard) == 2
    assert found(tmp_path) == before


def test_cells_side_by_side_give_the_same_as_one_after_the_other(whole, tmp_path):
    progress = StopsAfter(10**9)
    kshot.experiment(SMALL, out=tmp_path, minutes=MINUTES, workers=2, progress=progress)
    assert found(tmp_path) == found(whole)
    assert 10**9 - progress.left == 40


FAILING = """
from dataclasses import dataclass
import kshot
from kshot.core.errors import UserError

@dataclass(frozen=True)
class Fails(kshot.Experiment):
    ours: bool = True
    def cells(self):
        return [kshot.Cell("a", 1), kshot.Cell("b", 1)]
    def run(self, cell, *, rng, progress, scale, state=None):
        raise UserError("the cell must be another.") if self.ours else KeyError("what is not there")
    def findings(self, rows):
        raise AssertionError
"""


def test_what_stops_a_worker_is_said_as_it_was(tmp_path, run_cli):
    (tmp_path / "fails.py").write_text(FAILING)
    name = f"{tmp_path / 'fails.py'}:Fails"
    done = run_cli("study", name, "--workers", 2, "--out", tmp_path / "run")
    assert done.code == 2
    assert "error: the cell must be another." in done.err
    told, asked = queue.Queue(), queue.Queue()
    asked.put("a")
    train_networks._work(train_networks._Task(f"{name}(ours=false)", 0, 1.0, str(tmp_path / "run")), asked, told)
    what, value = told.get()
    assert what == "failed"
    error = train_networks._error(value)
    assert isinstance(error, RuntimeError)
    assert "KeyError: 'what is not there'" in str(error)
    assert isinstance(train_networks._error({"kind": "NotOurs", "is_ours": True, "text": "t"}), ModelError)


REFUSED = {
    ("inducton",): "there is no study 'inducton'. Did you mean 'induction'? Known: boolean, distribution, induction",
    ("label-frequency", "--model", "tiny"): "Did you mean 'label-frequencies'?",
    ("induction", "--minutes", "0"): "--minutes must be more than 0 and at most 100000; got 0.",
    ("induction", "--minutes", "-3"): "--minutes must be more than 0 and at most 100000; got -3.",
    ("induction", "--minutes", "nan"): "--minutes must be more than 0 and at most 100000; got nan.",
    ("induction", "--workers", "0"): "--workers must be in 1..256; got 0.",
    ("induction", "--model", "tiny"): "--model must be left out: the study 'induction' trains networks of its own",
    ("induction", "-n", "8"): "-n must be left out: the study 'induction' trains networks of its own and asks no",
    ("induction", "--trust-remote-code"): "--trust-remote-code must be left out: the study 'induction' trains",
    ("label-frequencies", "--minutes", "3"): "--minutes must be left out: the study 'label-frequencies' is a family",
    ("label-frequencies", "--model", "tiny", "--out", "x"): "--out must be left out: the study 'label-frequencies' is",
    ("label-frequencies",): "--model must be given",
    ("induction(classes=100)",): "induction:classes must be multiples of labels=32",
    ("induction(clases=64)",): "'induction' has no setting 'clases'. Did you mean 'classes'?",
}


@pytest.mark.parametrize("given", REFUSED, ids=" ".join)
def test_what_does_not_fit_is_refused_in_a_sentence(given, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_cli("study", *given)
    assert done.code == 2
    assert REFUSED[given] in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_study_is_refused(tmp_path):
    kshot.experiment(f"{OWN}:Margin", out=tmp_path, minutes=1)
    with pytest.raises(UserError, match="holds a run with another seed \\(0, now 1\\); give another --out"):
        kshot.experiment(f"{OWN}:Margin", out=tmp_path, minutes=1, seed=1)
    with pytest.raises(UserError, match="another settings"):
        kshot.experiment(f"{OWN}:Margin(dim=3)", out=tmp_path, minutes=1)
    with pytest.raises(UserError, match=r"must be a study that trains networks; it is a family of tasks"):
        kshot.experiment("label-frequencies")


@pytest.mark.parametrize("names", [(), ("a/b",), ("a", "a"), ("..",)])
def test_cells_have_names_of_files(names):
    with pytest.raises(UserError, match="'mine' must have cells, each with a name of its own"):
        train_networks._checked("mine", [Cell(name, 1) for name in names])


def test_a_claim_holds_beyond_its_bar():
    assert Claim("more", 0.9, 0.85).holds
    assert not Claim("more", 0.85, 0.85).holds
    assert Claim("less", 0.05, 0.1, below=True).holds
    assert not Claim("less", 0.1, 0.1, below=True).holds


def rng(seed=0):
    return np.random.default_rng(seed)


def built(kind, seed=0):
    how = {
        "attention": lambda: AttentionOnly(6, 3, hidden=8),
        "decoder": lambda: Decoder(6, 3, width=8, layers=2, heads=2, length=9),
        "lstm": lambda: Recurrent(6, 3, width=8, layers=2),
    }
    return made(how[kind], rng(seed))


def test_weights_come_from_the_generator_alone():
    chance = torch.get_rng_state()
    for kind in ("attention", "decoder", "lstm"):
        first, again, other = (dict(built(kind, seed).named_parameters()) for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert all(first[name].isfinite().all() for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), chance)


@pytest.mark.parametrize("kind", ["decoder", "lstm"])
def test_no_place_sees_a_later_one(kind):
    network, x = built(kind), torch.from_numpy(rng().standard_normal((4, 9, 6)).astype(np.float32))
    changed = x.clone()
    changed[:, 5:] += 1
    with torch.no_grad():
        before, after = network(x), network(changed)
    assert before.shape == (4, 9, 3)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert ((before - after)[:, 5:].abs().amax((1, 2)) > 1e-3).all()


def test_attention_alone_is_what_its_formula_says():
    network, x = built("attention"), rng().standard_normal((5, 7, 6)).astype(np.float32)
    with torch.no_grad():
        logits, first, second = network.looked(torch.from_numpy(x))

    def head(own, x):
        query, key, value = (x @ getattr(own, name).weight.detach().numpy().T for name in ("query", "key", "value"))
        shares = np.zeros((7, 7))
        for at in range(7):
            raw = np.exp([query[at] @ key[before] / np.sqrt(6) for before in range(at + 1)])
            shares[at, : at + 1] = raw / raw.sum()
        return shares, shares @ value

    for i in range(5):
        shares, seen = head(network.first, x[i])
        assert first[i].numpy() == pytest.approx(shares, abs=1e-5)
        shares, more = head(network.second, x[i] + seen)
        assert second[i].numpy() == pytest.approx(shares[-1], abs=1e-5)
        last = torch.from_numpy((x[i] + seen + more)[-1].astype(np.float32))
        assert torch.allclose(logits[i], network.classifier(last), atol=1e-5)


def test_a_block_is_torchs_own_layer():
    """With the same weights as a layer of a transformer of torch's, normalised before."""
    block = built("decoder").blocks[0]
    layer = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    pairs = {"self_attn.in_proj_weight": block.attention.weight, "self_attn.in_proj_bias": block.attention.bias,
             "self_attn.out_proj.weight": block.out.weight, "self_attn.out_proj.bias": block.out.bias,
             "linear1.weight": block.up.weight, "linear1.bias": block.up.bias, "linear2.weight": block.down.weight,
             "linear2.bias": block.down.bias, "norm1.weight": block.before.weight, "norm1.bias": block.before.bias,
             "norm2.weight": block.between.weight, "norm2.bias": block.between.bias}  # fmt: skip
    layer.load_state_dict(pairs)
    x = torch.from_numpy(rng().standard_normal((3, 5, 8)).astype(np.float32))
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    assert torch.allclose(block(x), layer.train()(x, src_mask=mask, is_causal=True), atol=1e-5)


def test_an_lstm_is_as_large_as_it_may_be():
    size = n_weights(built("decoder"))
    same = made(lambda: recurrent_as_large(size, 6, 3, layers=2), rng())
    assert n_weights(same) <= size < n_weights(Recurrent(6, 3, width=same.layers.hidden_size + 1, layers=2))


@pytest.mark.parametrize("kind", ["decoder", "lstm"])
def test_training_is_the_same_with_any_number_of_threads(kind):
    def rows():
        network = built(kind)

        def loss(rng):
            x = torch.from_numpy(rng.standard_normal((64, 9, 6)).astype(np.float32))
            return ((network(x)[:, -1] - x[:, -1, :3]) ** 2).mean()

        return train(
            network, loss, lambda: {"sum": float(sum(p.sum() for p in network.parameters()))},
            steps=12, rng=rng(), progress=Silence(), measured=4, warmup=3, lr=1e-2,
        )  # fmt: skip

    threads = torch.get_num_threads()
    first = rows()
    torch.set_num_threads(2)
    try:
        assert rows() == first
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [row["step"] for row in first] == [0, 3, 6, 9, 12]
    assert first[-1]["loss_nats"] < first[1]["loss_nats"]
    assert first[0]["loss_nats"] is None


def test_a_loss_that_is_not_finite_stops_training():
    network = built("decoder")
    with pytest.raises(DivergedError, match="The loss must be finite; at step 1 it is nan. Lower lr."):
        train(
            network, lambda rng: next(network.parameters()).sum() * float("nan"), dict, steps=3, rng=rng(),
            progress=Silence(),
        )  # fmt: skip
