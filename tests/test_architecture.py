"""The house stays as it is drawn: imports flow one way, nothing heavy is imported early, files stay short."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "kshot"
# Left never imports right; rooms in one set do not import each other. Files beside the rooms are rooms of their own.
LAYERS = [
    {"core"},
    {"store"},
    {"tasks", "prompts", "models", "measures"},
    {"encoders"},
    {"engine"},
    {"taskmodel"},
    {"retrieval"},
    {"methods"},
    {"recipes"},
    {"learners"},
    {"race", "evaluators", "studies"},
    {"adapted"},
    {"reports", "export"},
    {"verbs"},
    {"serve"},
    {"estimator", "cli", "bench", "testing"},
]
LEVEL = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}


@cache
def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


def files() -> list[Path]:
    return [f for f in sorted(SOURCE.rglob("*.py")) if f != SOURCE / "__init__.py"]


def room(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_imports_flow_one_way():
    wrong = []
    for file in files():
        for name in imports(file):
            if not name.startswith("kshot.") or name.count(".") == 1:
                continue
            other, own = name.split(".")[1], room(file)
            if other != own and LEVEL[other] >= LEVEL[own]:
                wrong.append(f"{file.relative_to(SOURCE)} imports {name}")
    assert not wrong


def test_transformers_and_torch_stay_in_their_rooms():
    users = {
        "transformers": {
            "models/hf.py",
            "models/checkpoint.py",
            "models/fingerprint.py",
            "models/quiet.py",
            "encoders/encoder_training.py",
        },
        "openai": {"models/remote/service.py"},
        "stamina": {"models/remote/service.py", "models/remote/known.py"},
        "peft": {"models/weights.py", "models/peft_adapter.py"},
        "uvicorn": {"serve/listening.py"},
        "prometheus_client": {"serve/counts.py"},
    }
    for package, allowed in users.items():
        found = {str(f.relative_to(SOURCE)) for f in files() if any(n.split(".")[0] == package for n in imports(f))}
        assert found == allowed
    torch = {room(f) for f in files() if any(n.split(".")[0] == "torch" for n in imports(f))}
    assert torch <= {"models", "encoders", "engine", "studies", "bench"}
    starlette = {room(f) for f in files() if any(n.split(".")[0] == "starlette" for n in imports(f))}
    assert starlette == {"serve"}


def test_a_basename_stands_for_one_thing():
    names = Counter(f.name for f in files() if f.name != "__init__.py")
    assert [name for name, n in names.items() if n > 1] == []


def test_long_files_say_why():
    long = [f for f in files() if len((text := f.read_text("utf-8")).splitlines()) > 500 and "\nLong: " not in text]
    assert long == []


def test_two_files_at_the_top():
    assert sorted(f.name for f in SOURCE.glob("*.py")) == ["__init__.py", "estimator.py"]


def test_what_every_run_imports_does_without_scipy_stats():
    """It takes as long to import as the rest of what a prediction by a small model needs."""
    users = [f.name for f in files() if "from scipy.stats" in f.read_text("utf-8")]
    assert sorted(users) == ["api_scores.py", "correlation.py"]


def test_import_is_quick_and_light():
    code = (
        "import sys, time; t = time.perf_counter(); import kshot; s = time.perf_counter() - t\n"
        "import kshot.cli.main\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'sentence_transformers'} & set(sys.modules)\n"
        "print(s); assert s < 0.3, s; assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
