import re
import string
import subprocess
import sys
from collections import Counter
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from kshot.core.errors import UserError
from kshot.measures.metrics import METRICS, check_references, compute, row_score, statistic
from kshot.measures.text_metrics import ENTITY, SLOT, last_number, pieces

WORDS = ("the", "a", "cat", "Cat.", "sat", "on", "mat,", "3.5", "naïve", "猫が", "Ünder-way", "&amp;", "don't", "\n")
sentences = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
texts = sentences | st.text(max_size=20)
corpora = st.lists(st.tuples(st.lists(texts, min_size=1, max_size=3), texts), min_size=1, max_size=6)
OF_LABELS = {
    "accuracy",
    "macro_f1",
    "f1",
    "macro_recall",
    "matthews",
    "quadratic_kappa",
    "mae",
    "micro_f1",
    "set_f1",
    "set_macro_f1",
    "hamming",
}
TEXT_METRICS = sorted(set(METRICS) - OF_LABELS)


def all_rows(name, references, answers):
    return compute(name, references, answers, labels=())


def padded(references):
    """Transpose as sacrebleu wants it: one list for all first references, and so on; None where a row has fewer."""
    width = max(map(len, references))
    return [[row[i] if i < len(row) else None for row in references] for i in range(width)]


@pytest.mark.parametrize(("name", "reference"), [("bleu", BLEU()), ("chrf", CHRF())])
@given(corpus=corpora)
@settings(max_examples=50)
def test_equals_sacrebleu_on_a_corpus(name, reference, corpus):
    references, answers = [r for r, _ in corpus], [a for _, a in corpus]
    expected = reference.corpus_score(answers, padded(references)).score / 100
    assert all_rows(name, references, answers) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "reference"), [("bleu", BLEU(effective_order=True)), ("chrf", CHRF())])
@given(corpus=corpora)
@settings(max_examples=50)
def test_a_row_equals_sacrebleu_on_a_sentence(name, reference, corpus):
    references, answer = corpus[0]
    expected = reference.sentence_score(answer, references).score / 100
    assert row_score(name, references, answer) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "reference"), [("bleu", BLEU()), ("chrf", CHRF())])
def test_resamples_equal_sacrebleu(name, reference):
    rng = np.random.default_rng(1)
    lines = [" ".join(rng.choice(WORDS, rng.integers(1, 15))) for _ in range(80)]
    references = [lines[20 + 3 * i : 21 + 3 * i + i % 3] for i in range(20)]
    value = statistic(name, references, lines[:20], labels=())
    for _ in range(10):
        drawn = rng.integers(20, size=20)
        expected = reference.corpus_score([lines[i] for i in drawn], padded([references[i] for i in drawn]))
        assert value(drawn) == pytest.approx(expected.score / 100, abs=1e-12)


@pytest.mark.parametrize("name", ["rouge1", "rougeL"])
@given(corpus=corpora)
@settings(max_examples=50)
def test_equals_rouge_score(name, corpus):
    scorer = RougeScorer([name])
    expected = [scorer.score_multi(references, answer)[name].fmeasure for references, answer in corpus]
    assert [row_score(name, *row) for row in corpus] == pytest.approx(expected, abs=1e-12)
    assert all_rows(name, *zip(*corpus, strict=True)) == pytest.approx(np.mean(expected), abs=1e-12)


@given(st.lists(st.sampled_from("abcd"), max_size=90), st.lists(st.sampled_from("abcde"), max_size=90))
@settings(max_examples=30)
def test_rouge_l_of_long_texts(first, second):
    expected = RougeScorer(["rougeL"]).score(" ".join(first), " ".join(second))["rougeL"].fmeasure
    assert row_score("rougeL", [" ".join(first)], " ".join(second)) == pytest.approx(expected, abs=1e-12)


def squad_words(text):
    """Normalise as evaluate-v1.1.py does."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


@given(corpus=corpora)
@settings(max_examples=50)
def test_equals_the_script_of_squad(corpus):
    for references, answer in corpus:
        given, f1s = squad_words(answer), []
        for gold in map(squad_words, references):
            same = sum((Counter(given) & Counter(gold)).values())
            precision, recall = (same / len(given), same / len(gold)) if same else (0, 0)
            f1s.append(2 * precision * recall / (precision + recall) if same else 0)
        assert row_score("squad_f1", references, answer) == pytest.approx(max(f1s), abs=1e-12)
        assert row_score("squad_exact_match", references, answer) == (given in map(squad_words, references))


@pytest.mark.parametrize(
    ("name", "references", "answer", "expected"),
    [
        ("exact_match", ["New  York"], " New\tYork\n", 1),
        ("exact_match", ["New York"], "new york", 0),
        ("exact_match", ["NewYork"], "New York", 0),
        ("exact_match", ["(a)"], "a", 0),
        ("exact_match", ["no", "nein"], "nein", 1),
        ("exact_match", [""], " ", 1),
        ("squad_exact_match", ["the U.S. Senate"], "US senate!", 1),
        ("squad_exact_match", ["1996", "in 1996"], "In 1996.", 1),
        ("squad_exact_match", ["1996"], "1997", 0),
        ("squad_f1", ["the red house"], "a red barn", 0.5),
        ("squad_f1", ["red", "red barn"], "red barn", 1),
        ("squad_f1", ["the"], "the", 0),  # nothing is left of it, and the script gives no credit for nothing
        ("set_exact_match", ["cat, dog"], "Dog,cat, cat", 1),
        ("set_exact_match", ["cat, dog"], "cat", 0),
        ("set_exact_match", ["cat, dog"], "cat dog", 0),
        ("set_exact_match", ["red car, blue bike"], "blue car, red bike", 0),
        ("set_exact_match", ["red car, blue bike"], "blue  bike, red car", 1),
        ("set_exact_match", ["we were who"], "who We were", 1),
        ("set_exact_match", ["we were"], "we, were", 1),
        ("set_exact_match", ["eagle"], "eagle, bear", 0),
        ("set_exact_match", ["cat", "dog, cow"], "cow, dog", 1),
        ("set_exact_match", ["STRASSE"], "straße", 1),
        ("rouge1", ["the cat sat"], "sat, the CAT!", 1),
        ("rougeL", ["the cat sat"], "sat, the CAT!", 2 / 3),
        ("rouge1", ["猫"], "猫", 0),
        ("rouge1", [""], "", 0),
        ("bleu", ["a b c d"], "a b c d", 1),
        ("bleu", ["猫"], "", 0),
        ("chrf", ["猫が"], "猫が", 1),
        ("chrf", [""], "", 0),
    ],
)
def test_a_row(name, references, answer, expected):
    assert row_score(name, references, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", "42"),
        ("5 + 4 = 9.", "9"),
        ("It costs $1,234,567.80 in all", "1234567.8"),
        ("-3", "-3"),
        ("x = −3", "-3"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("(-5)", "-5"),
        ("7-5", "5"),
        ("about 10-15", "15"),
        ("covid-19", "19"),
        ("25%", "25"),
        (".5", "0.5"),
        ("18.00", "18"),
        ("1,2,3", "3"),
        ("in 1,000, then", "1000"),
        ("12,34", "34"),
        ("€20", "20"),
        ("#### 7", "7"),
        ("007", "7"),
        ("-1234567890123456789012345678901", "-1234567890123456789012345678901"),
        ("٣", "3"),
        ("²", None),
        ("seven", None),
        ("", None),
    ],
)
def test_last_number(text, expected):
    assert last_number(text) == (None if expected is None else Decimal(expected))


@given(st.decimals(-(10**9), 10**9, places=2), texts)
def test_a_number_is_found_however_it_is_written(number, text):
    for written in (f"{number}", f"{number:,}", f"{number}%", f"${number}", f"{number}0"):
        assert row_score("exact_match_number", [str(number)], f"{text} {written}.") == 1
    assert row_score("exact_match_number", [str(number)], f"{text} {number + 1}") == 0


def test_numbers_are_compared_exactly():
    assert row_score("exact_match_number", ["0.666667"], "0.6666667") == 0
    assert row_score("exact_match_number", ["12345678901234567891"], "12345678901234567892") == 0
    assert row_score("exact_match_number", ["7", "8"], "8.0") == 1
    assert row_score("exact_match_number", ["7"], "I do not know") == 0
    assert row_score("exact_match_number", ["seven"], "eight") == 0


def test_pieces_of_entities():
    text = (
        "Ada  Lovelace [ person ];AT&amp;T [group]; Rock &quot;n&quot; Roll [song] ; oops; A [1] [work]\nnone; []; x=y;"
    )
    assert pieces(ENTITY, text) == [
        ("person", "Ada Lovelace"),
        ("group", "AT&T"),
        ("song", 'Rock "n" Roll'),
        None,
        ("work", "A [1]"),
        None,
        None,
    ]


def test_pieces_of_slots():
    assert pieces(SLOT, "from.city = new york;day=monday; =; oops; formula=a=b; NONE") == [
        ("from.city", "new york"),
        ("day", "monday"),
        None,
        None,
        ("formula", "a=b"),
    ]


@pytest.mark.parametrize(("name", "written"), [("entity_f1", "{1} [{0}]"), ("slot_f1", "{0}={1}")])
@pytest.mark.parametrize("unique", [True, False])
@given(data=st.data())
@settings(max_examples=50)
def test_pieces_equal_scikit_learn_on_sets_and_a_count_on_multisets(name, written, unique, data):
    known = [(kind, value) for kind in "xy" for value in ("a", "b b", "ü")]
    lists = st.lists(st.sampled_from(known), max_size=5, unique=unique)
    rows = data.draw(
        st.lists(st.tuples(lists, lists, st.sampled_from(["none", "", "none such"])), min_size=1, max_size=5)
    )
    references = [["; ".join(written.format(*p) for p in gold) or "none"] for gold, _, _ in rows]
    answers = ["; ".join(written.format(*p) for p in answer) or nothing for _, answer, nothing in rows]
    value = all_rows(name, references, answers)
    right = sum(min(gold.count(p), answer.count(p)) for gold, answer, _ in rows for p in known)
    total = sum(len(gold) + len(answer) for gold, answer, _ in rows)
    assert value == pytest.approx(2 * right / total if total else 1)
    if unique and total:
        coder = MultiLabelBinarizer(classes=known)
        table = [coder.fit_transform(column) for column in list(zip(*rows, strict=True))[:2]]
        assert value == pytest.approx(f1_score(*table, average="micro", zero_division=0))


def test_pieces_of_a_row():
    assert row_score("slot_f1", ["none"], "none") == 1
    assert row_score("slot_f1", ["none"], "I see no slots") == 1
    assert row_score("slot_f1", ["none"], "day=monday") == 0
    assert row_score("slot_f1", ["day=monday"], "monday") == 0
    assert row_score("slot_f1", ["day=monday", "date=1; day=friday"], "day=friday") == pytest.approx(2 / 3)
    assert row_score("entity_f1", ["A [x]; A [x]"], "A [x]") == pytest.approx(2 / 3)
    assert row_score("entity_f1", ["A [x]"], "A [x]; A [x]") == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"bleu"}))
@given(row=corpora.map(lambda corpus: corpus[0]))
@settings(max_examples=15)
def test_the_best_reference_counts(name, row):
    references, answer = row
    expected = (
        max(row_score(name, [r], answer) for r in references)
        if name in TEXT_METRICS
        else row_score(name, references[:1], answer)
    )
    assert row_score(name, references, answer) == expected


def test_bleu_counts_words_of_all_references():
    references = ["green ideas sleep now", "they all sleep furiously"]
    assert row_score("bleu", references, "green ideas sleep furiously") > max(
        row_score("bleu", [r], "green ideas sleep furiously") for r in references
    )


@pytest.mark.parametrize(
    ("name", "reference", "form"),
    [
        ("exact_match_number", "seven", "hold a number in digits, such as 42 or -1,200.5"),
        ("entity_f1", "Paris", "be a list such as 'entity [type]; entity [type]', or none"),
        ("slot_f1", "a=1; b", "be a list such as 'slot=value; slot=value', or none"),
    ],
)
def test_a_row_that_cannot_be_scored_is_refused(name, reference, form):
    expected = (
        f"row train-3: with the metric {name} every output and reference must {form}; got '{reference}'. "
        "Correct the row, or name another metric in 'metrics' in task.json."
    )
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        check_references(name, "train-3", ["a=1; 2 [c]" if name == "exact_match_number" else "none", reference])


def test_rows_that_can_be_scored_pass():
    check_references("exact_match_number", "train-1", ["-1,200.5", "$7"])
    check_references("entity_f1", "train-1", ["none", "A [x]; B [y]"])
    check_references("slot_f1", "train-1", ["None", "a=1; b=2", ""])


def test_sacrebleu_is_imported_late():
    code = "import sys; import kshot.measures.intervals; print('sacrebleu' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
