"""Check the pages: their links, their commands, their listings, their tables."""

import importlib
import re
import shlex

import pytest

from docs import build_hyperparameters
from fiveline.study.settings import Settings
from fiveline.tasks import fetch_params_class, list_tasks
from tests.support.pages import PAGES, PROJECT, blocks_of, listings_of, read
from tests.support.tasks import SHIPPED, needs

INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
RUNNERS = re.compile(r"^(?:srun |exec )*(?:\.venv/bin/)?(?:python |torchrun )(.*)")
KNOWN = {name for task in list_tasks() for name in fetch_params_class(task).model_fields}
SETTINGS = set(Settings.model_fields)
FILES_SHOWN = {name for page in PAGES for name, _ in listings_of(page)}  # a page's own scripts
WITH_GUIDES = [*PAGES, PROJECT / "CONTRIBUTING.md", PROJECT / "CHANGELOG.md"]
SHOWN_AS_A_MISTAKE = {"learning_rat"}  # the README shows the error message


def prose_of(page):
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page):
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    names = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {name if name not in names[:i] else f"{name}-{names[:i].count(name)}" for i, name in enumerate(names)}


def written_commands(page):
    """Return the python commands of a page, in blocks and within sentences, without the first word."""
    lines = [line for block in blocks_of(page) if not block.language for line in block.text.split("\n")]
    text = "\n".join(lines).replace("\\\n", " ")
    inline = [words.replace("\n", " ") for words in INLINE.findall(prose_of(page)) if "..." not in words]
    found = [RUNNERS.match(line.strip()) for line in [*text.split("\n"), *inline]]
    return [match[1] for match in found if match and "..." not in match[1]]


def parse(command):
    """Parse a command as its script does; return the words that set hyperparameters."""
    command = re.sub(r"^-m ((?:benchmarks|docs|fiveline)\S*)", lambda name: name[1].replace(".", "/") + ".py", command)
    words = shlex.split(command, comments=True)
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None or script in FILES_SHOWN:  # neither are pip, pytest, torchrun and their flags ours
        return []
    source, rest = read(PROJECT / script), words[words.index(script) + 1 :]
    if "def make_parser(" not in source:
        flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
        assert all(f'"{flag}"' in source for flag in flags), f"{command}: {script} lacks one of {flags}"
        return []
    parser = importlib.import_module(script.removesuffix(".py")).make_parser()
    parser.error = lambda message: pytest.fail(f"{command}: {message}")
    return getattr(parser.parse_args(rest), "overrides", [])


@pytest.mark.parametrize("page", WITH_GUIDES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = [link or image for link, image in re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", prose_of(page))]
    for target, _, anchor in (link.partition("#") for link in links):
        if target.startswith(("http://", "https://")):
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors_of(path), f"{page.name}: {target}#{anchor}"


@needs(*SHIPPED)  # the pages are about all of them
@pytest.mark.parametrize("page", WITH_GUIDES, ids=lambda page: page.name)
def test_commands_are_understood_by_their_scripts(page):
    for command in written_commands(page):
        for word in parse(command):
            name = word.partition("=")[0]
            assert name in KNOWN | SETTINGS | SHOWN_AS_A_MISTAKE, f"{page.name}: {command}: there is no {name}"


@needs(*SHIPPED)  # the pages are about all of them
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quoted_code_stands_in_the_file_named(page):
    """In the order of the file, which may have it further to the right; `...` stands for lines left out."""
    for block in blocks_of(page):
        if block.mark.startswith("from: "):
            name = block.mark.removeprefix("from: ")
            text = without_indent(read(PROJECT / name))
            for part in re.split(r"^ *\.\.\.\n", block.text, flags=re.MULTILINE):
                _, found, text = text.partition(without_indent(part.strip("\n")))
                assert found, f"{page.name}: this does not stand in {name} (any more):\n{part}"


def without_indent(text):
    return re.sub(r"^ +| +$", "", text, flags=re.MULTILINE)


def test_table_of_hyperparameters_is_what_the_classes_say():
    shown = {part.strip() for part in read(build_hyperparameters.PAGE).split("\n## ")}
    for part in build_hyperparameters.render().split("\n## "):
        is_readers_own = part.startswith("Task `") and part.split("`")[1] not in SHIPPED
        assert is_readers_own or part.strip() in shown, f"python -m docs.build_hyperparameters, because of {part[:50]}"


def pages_linked_from(page):
    return {(page.parent / link).resolve() for link in re.findall(r"\]\(([\w/]+\.md)\)", read(page))} & {*PAGES}


def test_readme_and_tutorial_list_every_page():
    parts = {page for page in PAGES if page.parent.name == "tutorial"}
    assert pages_linked_from(PAGES[0]) == {*PAGES[1:]} - parts
    assert pages_linked_from(PROJECT / "docs/tutorial.md") >= parts
