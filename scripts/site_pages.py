"""What the site of `make docs` has beside docs/: README, CONTRIBUTING, CHANGELOG, and the API, a page a package."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
AT_ROOT = {"index.md": "README.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
REPOSITORY = re.compile(r"\]\((?:\.\./)?((?:LICENSE|\.ci|\.github|conf|esper|tests|benchmarks)[^)]*)\)")


def on_config(config: Any) -> Any:
    """Name the pages that `on_files` makes."""
    (api,) = [section for section in config["nav"] if "API" in section]
    api["API"] = [f"api/{package}.md" for package in packages()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what does not lie in docs/."""
    for name, source in AT_ROOT.items():
        text = (ROOT / source).read_text().replace("](docs/", "](").replace("](README.md", "](index.md")
        files.append(File.generated(config, name, content=text))
    for package in packages():
        files.append(File.generated(config, f"api/{package}.md", content=reference(package)))
    return files


def on_page_markdown(markdown: str, **given: Any) -> str:
    """Links that are right in the repository, as they are here: to files that are no pages, only their names."""
    markdown = re.sub(r"\]\(\.\./(README|CONTRIBUTING|CHANGELOG)\.md", _page, markdown)
    return re.sub(rf"\[([^\]]+){REPOSITORY.pattern}", r"\1", markdown)


def packages() -> list[str]:
    """All rooms, and the modules that stand beside them."""
    inside = sorted((ROOT / "esper").iterdir())
    return ["esper", *(path.name for path in inside if (path / "__init__.py").exists())]


def reference(package: str) -> str:
    """A page that mkdocstrings fills in: every module of a package, its public names."""
    if package == "esper":
        modules = ["esper", *(f"esper.{path.stem}" for path in sorted((ROOT / "esper").glob("[!_]*.py")))]
    else:
        found = sorted((ROOT / "esper" / package).rglob("*.py"))
        named = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found if path.name[0] != "_"]
        modules = [f"esper.{package}", *named]
    title = package if package == "esper" else f"esper.{package}"
    entries = [f"::: {module}\n    options: {{show_submodules: false}}" for module in modules]
    return "\n\n".join([f"# {title}", *entries])


def _page(link: re.Match[str]) -> str:
    return f"]({'index' if link[1] == 'README' else link[1]}.md"
