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
HEADINGS = {f"Task `{task}`" for task in SHIPPED}  # a reader's own task may be in the table, or not
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
    words = shlex.split(command, comments=True)
    if words[0] == "-m":
        if words[1] in ("pytest", "pip", "venv", "ipykernel"):
            return []
        words = [words[1].replace(".", "/") + ".py", *words[2:]]
    scripts = [i for i, word in enumerate(words) if word.endswith(".py")]
    if not scripts:  # torchrun and its own flags
        return []
    script, rest = words[scripts[0]], words[scripts[0] + 1 :]
    assert (PROJECT / script).exists() or script in FILES_SHOWN, f"{command}: there is no {script}"
    if script in FILES_SHOWN:
        return []
    source = read(PROJECT / script)
    if "def make_parser(" not in source:
        for flag in [word.partition("=")[0] for word in rest if word.startswith("--")]:
            assert f'"{flag}"' in source, f"{command}: {script} has no {flag}"
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


def sections(text):
    return dict(part.split("\n", 1) for part in text.split("\n## ")[1:])


def test_table_of_hyperparameters_is_what_the_classes_say():
    shown, true = sections(read(build_hyperparameters.PAGE)), sections(build_hyperparameters.render())
    for heading, table in true.items():
        is_readers_own = heading not in shown and heading not in HEADINGS
        assert is_readers_own or shown.get(heading, "").strip() == table.strip(), (
            f"{heading}: docs/hyperparameters.md is not what the classes say; python -m docs.build_hyperparameters"
        )


def pages_linked_from(page):
    return {(page.parent / link).resolve() for link in re.findall(r"\]\(([\w/]+\.md)\)", read(page))} & {*PAGES}


def test_readme_and_tutorial_list_every_page():
    parts = {page for page in PAGES if page.parent.name == "tutorial"}
    assert pages_linked_from(PAGES[0]) == {*PAGES[1:]} - parts
    assert pages_linked_from(PROJECT / "docs/tutorial.md") >= parts
