"""Oracle: the code. Generated pages say what it says now."""

from pathlib import Path

import pytest

from bigpeft.cli.reference import methods_page, recipe_page


@pytest.mark.parametrize(
    ("path", "page"), [("docs/recipe.md", recipe_page), ("docs/methods.md", methods_page)]
)
def test_a_generated_page_is_up_to_date(path, page):
    assert Path(path).read_text() == page(), f"run: bigpeft reference {Path(path).stem} > {path}"


def test_every_link_of_the_readme_leads_somewhere():
    text = Path("README.md").read_text()
    links = [part.partition(")")[0] for part in text.split("](")[1:]]

    assert [link for link in links if "://" not in link and not Path(link).exists()] == []
