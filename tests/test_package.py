"""What is shipped: the wheel's package list and the files that come with it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed_and_every_shipped_file_is_package_data():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = (p.parent.relative_to(ROOT).parts for p in ROOT.glob("llmrec/**/__init__.py"))
    found = {".".join(parts) for parts in packages}
    assert set(setup["packages"]) == found | {"llmrec.eval.templates", "llmrec.prompt_templates"}
    assert setup["package-dir"]["llmrec.prompt_templates"] == "prompts"
    for package, patterns in setup["package-data"].items():
        folder = ROOT / setup["package-dir"].get(package, package.replace(".", "/"))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: nothing matches {pattern}"
    assert not [
        p for p in ROOT.glob("llmrec/**/*") if p.suffix in (".yaml", ".j2") and p.parent.name != "templates"
    ]


def test_pinned_versions_cover_what_is_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.match(r"[\w.-]+", r)[0].lower().replace("_", "-") for r in wanted}  # extras and ranges off
    assert names - pinned == set()


def test_the_table_of_results_in_the_readme_is_that_of_the_kept_files():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "readme_table.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _prose(path):
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def _anchors(path):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere():
    pages = [
        *ROOT.glob("*.md"),
        *(p for d in ("docs", "eval", "finetune", "prompts") for p in ROOT.glob(f"{d}/**/*.md")),
    ]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page))
        if not link.startswith(("http:", "https:"))
    ]
    assert len(links) > 50
    for page, link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in _anchors(target), f"{page.name}: {link}"
