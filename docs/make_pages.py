"""Write the pages that follow from the code: `make docs`."""

from pathlib import Path

from kshot.recipes.recipe import describe_recipes

HEAD = """# Recipes

Written by `make docs` from the classes' own documentation; do not edit.

| recipe | what it does | source |
|---|---|---|
"""


def recipes_page() -> str:
    """Return the table of recipes as Markdown."""
    rows = [f"| `{r['name']}` | {r['summary']} | {r['source'] or ''} |\n" for r in describe_recipes()]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    Path(__file__).with_name("recipes.md").write_text(recipes_page(), encoding="utf-8")
