"""The page of a study as a person meets it: in a browser, offline, with clicks, keys, small screens, hostile names."""

import collections
import csv
import json
import math
import os
import random
import shutil
import subprocess
import sys

import pytest

from fiveline.report import page as page_module
from fiveline.report.columns import all_columns
from fiveline.report.filter import parse_filter
from fiveline.report.intervals import proportion
from fiveline.report.runs import read_runs
from tests.support import browser as chromium
from tests.support.results import row_of, write_run
from tests.support.tasks import needs

pytestmark = pytest.mark.slow  # a browser for most of them

NUM_RUNS = 150
DIGITS = [str(digit) for digit in range(10)]
RIGHT_OR_WRONG = [row_of(f"test[{i}]", DIGITS[i % 10], DIGITS[i % 10 - (i % 9 == 0)], i) for i in range(270)]
PWNED = "<img src=x onerror=window.pwned=1><a href='javascript:window.pwned=1'>x"
ROWS = "[...document.querySelectorAll('#table tbody tr')].map((row) => row.querySelector('th a').textContent)"
ROW_HEADS = "[...document.querySelectorAll('#table tbody th')].map((cell) => cell.textContent)"


def ask(browser, expression):
    return browser.execute_script(f"return {expression}")


def page_of(folder):
    runs, problems = read_runs(folder)
    page_module.write_page(runs, folder / "results.html", problems)
    return folder / "results.html", runs, problems


def history_of(num_epochs):
    metrics = [{"accuracy": 1 - 1 / epoch, "loss": 1 / epoch} for epoch in range(1, num_epochs + 1)]
    return [{"epoch": epoch, "train": each, "val": each} for epoch, each in enumerate(metrics, start=1)]


def write_classes(folder, names):
    text = "class,examples,f1\n" + "".join(f'"{name}",1,0.5\n' for name in names)
    (folder / "per_class_test_best.csv").write_text(text)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The page of runs with five hyperparameters, of which the first 20 have predictions on digits, and the runs."""
    parent_dir, chance = tmp_path_factory.mktemp("study"), random.Random(230)
    for number in range(NUM_RUNS):
        params = {
            "task": "vision", "data_dir": "data/digits", "num_channels": 32, "seed": chance.choice([1, 2, 3]),
            "learning_rate": float(f"{10 ** chance.uniform(-4, -1):.3g}"), "weight_decay": chance.randrange(100) / 1000,
            "batch_size": chance.choice([16, 32, 64]), "optimizer": chance.choice(["adam", "adamw", "sgd"]),
        }  # fmt: skip
        accuracy, rows = chance.random(), RIGHT_OR_WRONG if number < 20 else ()
        val = {**dict.fromkeys(("accuracy", "recall", "precision", "f1"), accuracy), "loss": 1 - accuracy}
        record = {"status": chance.choice(["finished", "failed"]), "seconds": 20 + chance.random() * 60}
        test = {"accuracy": accuracy - 0.004} if rows else None
        write_run(parent_dir / f"run_{number:05d}", params, val, test, rows, history_of(5), **record)
    path, runs, problems = page_of(parent_dir)
    assert problems == []
    return path, {run.name: run for run in runs}


@pytest.fixture(scope="module")
def browser():
    if reason := chromium.why_no_browser():
        pytest.skip(reason)
    browser = chromium.start_browser()
    yield browser
    browser.quit()


@pytest.fixture
def opened(browser, study):
    """The browser with the study's page open, on a laptop's screen."""
    chromium.open_page(browser, study[0])
    return browser


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
    browser.find_element("css selector", selector).click()
    chromium.wait_drawn(browser)


def type_filter(browser, text):
    field = browser.find_element("id", "filter")
    field.clear()
    field.send_keys(text)
    chromium.wait_drawn(browser)


def test_page_draws_every_chart_and_allows_no_request_and_no_script_of_others(opened, study):
    charts = "[...document.querySelectorAll('.chart')]"
    assert ask(opened, f"{charts}.length") == 1 + 5  # curves, and one for each hyperparameter
    assert ask(opened, f"{charts}.filter((c) => !c.querySelector('.trace path, .point'))") == []
    best = max(study[1].values(), key=lambda run: run.val["accuracy"])
    assert ask(opened, ROWS)[0] == best.name and len(ask(opened, ROWS)) == 100
    row = opened.find_element("css selector", "#table tbody tr")
    assert f"{best.val['accuracy']:.4f}" in row.text and "best" in row.text
    click(opened, "#more")
    assert len(ask(opened, ROWS)) == NUM_RUNS
    assert chromium.requests_made(opened) == [] and chromium.console_errors(opened) == []
    opened.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.pwned=1\">'); "
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.org/x.png'}))"
    )
    refused = "fetch('https://example.org/').then(() => 'sent', () => 'refused')"
    assert ask(opened, refused) == "refused" and ask(opened, "window.pwned") is None
    assert any("Content Security Policy" in line for line in chromium.console_errors(opened))


def test_each_data_has_its_rows_its_star_and_its_charts(browser, tmp_path):
    for i in range(6):
        name, best = ("easy", 0.99) if i < 2 else ("hard", 0.5)
        params = {"task": "vision", "data_dir": f"data/{name}", "learning_rate": 0.1 * (i + 1)}
        write_run(tmp_path / f"{name}_{i}", params, {"accuracy": best + i / 1000}, data={"fingerprint": name})
    write_run(tmp_path / "alone", {"task": "ner"}, {"accuracy": 1.0})
    chromium.open_page(browser, page_of(tmp_path)[0])
    assert ask(browser, ROW_HEADS) == [
        "vision easy", "easy_1★ best", "easy_0", "vision hard", "hard_5★ best", "hard_4", "hard_3", "hard_2",
        "ner data not recorded", "alone",
    ]  # fmt: skip
    facts = browser.find_element("id", "facts").text
    assert "best accuracy, vision easy" in facts and "best accuracy, vision hard" in facts and "alone" not in facts
    drawn = "document.querySelector('#each-charts .chart').data[0].x.length"
    assert ask(browser, drawn) == 4  # the largest group
    click(browser, "#data option:first-child")
    assert ask(browser, drawn) == 2 and chromium.console_errors(browser) == []


def test_a_click_sorts_chooses_columns_and_draws_the_curves_of_a_run(opened, study):
    click(opened, "#more")
    position = ask(opened, "columnNamed.get('learning_rate').index")
    for is_descending, order in ((False, "ascending"), (True, "descending")):
        click(opened, f"#table th[data-column='{position}'] button")
        rates = [study[1][name].params["learning_rate"] for name in ask(opened, ROWS)]
        assert rates == sorted(rates, reverse=is_descending) and len(rates) == NUM_RUNS
        head = opened.find_element("css selector", f"#table th[data-column='{position}']")
        assert head.get_attribute("aria-sort") == order
    click(opened, "#columns summary")
    for name in ("seed", "f1"):
        opened.find_element("xpath", f"//div[@id='column-list']//label[.='{name}']").click()
    heads = "[...document.querySelectorAll('#table thead button')].map((button) => button.textContent)"
    assert "seed" not in ask(opened, heads) and "f1" in ask(opened, heads)

    click(opened, "#choose-none")
    assert ask(opened, "document.getElementById('curve-chart').data.length") == 0
    click(opened, "#table tbody tr:nth-child(3) input")
    run = study[1][ask(opened, ROWS)[2]]
    lines = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    drawn = ask(opened, "document.getElementById('curve-chart').data.map((t) => [t.x, t.y])")
    for (epochs, values), split in zip(drawn, ("val", "train"), strict=True):
        assert epochs == [line["epoch"] for line in lines]
        assert values == pytest.approx([line[split]["accuracy"] for line in lines], rel=1e-4)
    click(opened, "#chosen button")
    assert not opened.find_element("css selector", "#table tbody tr:nth-child(3) input").is_selected()


NONE_MATCHES = "optimizer < 3"
EXPRESSIONS = [
    NONE_MATCHES,
    "0.001 <= learning_rate < 0.01 and optimizer == 'adam' or batch_size == 16",
    "not (optimizer == 'adam' or optimizer == \"sgd\") and learning_rate >= 1e-3",
    "optimizer in ['adam', 'adamw'] and batch_size not in [16, 32] and time > 50.",
    "'00' in run and seed != 2 and status == 'failed'",
    "test_accuracy is not None and seed == 1 or test_accuracy == None and seed == 2",
]


def test_filter_narrows_table_and_charts_and_means_what_it_means_on_the_command_line(opened, study):
    script = "const {test} = readFilter(arguments[0]); return runs.filter(test).map((run) => run.name)"
    for text in EXPRESSIONS:
        test = parse_filter(text, all_columns(list(study[1].values())))
        wanted = [name for name, run in study[1].items() if test(run) is True]
        assert sorted(opened.execute_script(script, text)) == wanted, text
        assert 0 < len(wanted) < NUM_RUNS or text == NONE_MATCHES, text
    type_filter(opened, "optimizer == 'sgd' and learning_rate < 0.001")
    params = {name: run.params for name, run in study[1].items()}
    wanted = {name for name, each in params.items() if each["optimizer"] == "sgd" and each["learning_rate"] < 1e-3}
    assert set(ask(opened, ROWS)) == wanted
    assert f"{len(wanted)} of {NUM_RUNS} runs" in opened.find_element("id", "filter-note").text
    charts = "[...document.querySelectorAll('#each-charts .chart')].map((c) => c.data[0].x.length)"
    assert ask(opened, charts) == [len(wanted)] * 5
    type_filter(opened, "run_00007")
    assert ask(opened, ROWS) == ["run_00007"]
    type_filter(opened, "learning_rate <")
    assert "found the end" in opened.find_element("id", "filter-note").text
    assert len(ask(opened, ROWS)) == 100


def test_a_run_has_a_page_of_its_own_with_confusion_matrix_and_mistakes(opened, study):
    type_filter(opened, "run_00003")
    opened.find_element("css selector", "#table tbody th a").send_keys(chromium.ENTER)
    chromium.wait_for(opened, "return document.querySelector('#run h2') !== null")
    assert ask(opened, "document.activeElement.tagName") == "H2"
    pairs = collections.Counter((row["label"], row["prediction"]) for row in RIGHT_OR_WRONG)
    rows = "[...document.querySelectorAll('.matrix tbody tr')]"
    shown = ask(opened, f"{rows}.map((row) => [...row.cells].slice(1).map((cell) => cell.textContent))")
    assert shown == [[str(pairs[a, b] or "·") for b in DIGITS] for a in DIGITS]
    images = chromium.wait_for(opened, "const all = [...document.querySelectorAll('.mistakes img')]; "
                               "return all.every((i) => i.complete) && all.map((i) => i.naturalWidth)")  # fmt: skip
    assert images == [8] * 24  # of 30 mistakes
    opened.back()
    chromium.wait_for(opened, "return !document.getElementById('overview').hidden")
    assert chromium.console_errors(opened) == []


def test_names_with_tags_and_scripts_are_shown_as_they_are(browser, tmp_path):
    value, link = "</script><script>window.pwned=1</script><!--<script>", "<a href='javascript:window.pwned=1'>x"
    rows = [row_of(f"{PWNED}{i}", PWNED, value) for i in range(3)]
    for i in range(12):
        params = {"task": PWNED, "data_dir": value, PWNED: i, "net": [value, link, "{{policy}} %{x} $x$"][i % 3]}
        val, test = {"accuracy": i / 12, PWNED: 0.5, link: i}, {"accuracy": 0.5}
        folder = write_run(tmp_path / f"{PWNED}{i}", params, val, test, rows, history_of(3), status=value)
        write_classes(folder, [PWNED, value])
    path, runs, _ = page_of(tmp_path)
    for fragment in ("", "#run=" + "".join(f"%{byte:02x}" for byte in runs[-1].name.encode())):
        chromium.open_page(browser, path, fragment)
        hover = "Plotly.Fx.hover(chart, [{curveNumber: 0, pointNumber: 0}])"
        browser.execute_script(f"document.querySelectorAll('.chart').forEach((chart) => chart.data && {hover})")
        script = "return [...document.querySelectorAll('.hoverlayer')].map((l) => l.textContent).filter((text) => text)"
        labels = browser.execute_script(script)
        assert labels and all(PWNED in text for text in labels)
        shown = ask(browser, "document.body.innerText")
        assert PWNED in shown and value in shown and ask(browser, "window.pwned") is None
        made = "document.querySelectorAll('img[src=x], svg a, a[href^=javascript]').length"
        assert ask(browser, made) == 0 and chromium.console_errors(browser) == []
    assert ask(browser, "document.querySelectorAll('#run .mistakes li').length") == 3


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1366, "light")])
def test_page_fits_the_screen_and_its_text_can_be_read(browser, study, width, scheme):
    for fragment in ("", "#run=run_00003"):
        chromium.open_page(browser, study[0], fragment, width, 844, scheme)
        assert ask(browser, "document.documentElement.scrollWidth") <= width
        lightness = {}
        for name in ("back", "text", "soft", "accent", "star", "wrong"):
            colour = ask(browser, f"css('--{name}')")  # such as #0b6b7c
            levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            levels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in levels]
            lightness[name] = 0.2126 * levels[0] + 0.7152 * levels[1] + 0.0722 * levels[2] + 0.05
        below = lightness.pop("back")
        assert all(max(below / above, above / below) >= 4.5 for above in lightness.values())
        assert (below < 0.1) == (scheme == "dark")


def test_page_works_by_keyboard_and_its_charts_have_names_for_a_screen_reader(opened):
    for _ in range(30):
        opened.switch_to.active_element.send_keys(chromium.TAB)
        if ask(opened, "document.activeElement.closest('#table thead') !== null"):
            break
    opened.switch_to.active_element.send_keys(chromium.ENTER)
    focused = ask(opened, "document.activeElement.closest('th').getAttribute('aria-sort')")
    assert focused == "ascending", "the focus stays where it was, and the column is sorted"
    names = ask(opened, "[...document.querySelectorAll('.chart')].map((c) => c.getAttribute('aria-label'))")
    assert all(names) and any("accuracy against learning_rate" in name for name in names)


@needs("ner", "tabular")
def test_sentences_rows_and_quantities_are_shown_with_their_mistakes(browser, project, tmp_path):
    tokens = (project / "data/ner_small/test/sentences.txt").read_text(encoding="utf-8").splitlines()[1].split()
    others = " O" * (len(tokens) - 1)
    rows = [{"id": "test/sentences.txt:2", "label": f"O{others}", "prediction": f"B-PER{others}", "loss": "2"}]
    write_run(tmp_path / "ner", {"task": "ner", "data_dir": str(project / "data/ner_small")}, rows=rows)
    params = {"task": "tabular", "data_dir": str(project / "data/digits_rows")}
    write_classes(write_run(tmp_path / "rows", params, rows=[row_of("1", "3", "8")]), ["3", "8"])
    rows = [{"id": str(i), "label": str(i * 10.0), "prediction": str(i * 11.0), "loss": str(i)} for i in range(1, 9)]
    diabetes = {"task": "tabular", "data_dir": "gone", "target": "progression", "target_type": "number"}
    write_run(tmp_path / "number", diabetes, rows=rows)
    path, _, _ = page_of(tmp_path)
    chromium.open_page(browser, path, "#run=ner")
    sentence = browser.find_element("css selector", ".sentence")
    assert [word.text for word in sentence.find_elements("css selector", ".token.off")] == [f"{tokens[0]}\nB-PER → O"]
    assert " ".join(tokens) == " ".join(sentence.text.replace("B-PER → O", " ").split())
    chromium.open_page(browser, path, "#run=rows")
    with (project / "data/digits_rows/test.csv").open() as file:
        first = next(csv.DictReader(file))
    cells = browser.find_element("css selector", ".cells").text.split()
    assert cells[:2] == next([name, value] for name, value in first.items() if name != "digit")
    chromium.open_page(browser, path, "#run=number")
    chromium.wait_for(browser, "return document.querySelector('#points-chart .point') !== null")
    assert "gone: there is no such data directory" in browser.find_element("id", "run").text
    assert browser.find_element("css selector", ".mistakes li").text.startswith("88.0 should be 80.0")
    assert chromium.console_errors(browser) == []


def test_a_run_shows_the_intervals_of_its_metrics_and_whole_class_names(browser, tmp_path):
    names = ["common chrysanthemum", "rhododendron_ferrugineum"]
    rows = [row_of(i, names[0], names[i > 30]) for i in range(40)]
    write_run(tmp_path / "only", {"seed": 1}, {"accuracy": 0.75}, {"accuracy": 31 / 40}, rows, history_of(3))
    write_classes(tmp_path / "only", names)
    low, high = proportion(31, 40)
    intervals = {"accuracy": (low, high), "other": [0.5], "loss": "none"}
    (tmp_path / "only/scored_test_best.json").write_text(json.dumps({"intervals": intervals}))
    path, _, problems = page_of(tmp_path / "only")
    chromium.open_page(browser, path, width=390)  # of a single run: it is that run's
    chromium.wait_for(browser, "return document.querySelector('#run-chart .trace') !== null")
    text = browser.find_element("id", "run").text
    assert problems == [] and f"{low:.4f} to {high:.4f}" in text and "0.7500" in text and "seed" in text
    assert browser.find_element("css selector", "#run .legend").text
    # a word is broken if one character of it stands in another line
    lines = """
        return [...document.querySelectorAll('.class-name')].flatMap((name) => [...name.childNodes]
          .filter((node) => node.nodeType === 3).map((node) => {
            const range = document.createRange(); range.selectNodeContents(node);
            return new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size; }))"""
    assert set(browser.execute_script(lines)) == {1}
    assert ask(browser, "document.documentElement.scrollWidth") <= 390


def test_runs_without_metrics_or_history_and_with_names_that_are_no_text_have_a_page(browser, tmp_path):
    for name, value in ((b"caf\xe9", math.nan), (b"100% + #1?", math.inf), ("naïve ü".encode(), 0.5)):
        write_run(tmp_path / os.fsdecode(name), {"net": os.fsdecode(name), "deep.key": [1]}, {"accuracy": value})
    write_run(tmp_path / "empty")
    (tmp_path / "empty/run.json").write_text('{"status": "failed"}')
    (tmp_path / "empty/history.jsonl").write_text('{"epoch": 1, "val": {"accuracy": NaN}}\n{"epoch": 2, "va')
    (tmp_path / "empty/predictions_test_best.csv").write_text("\0\0")
    path, runs, problems = page_of(tmp_path)
    assert len(problems) == 2 and len(runs) == 4
    chromium.open_page(browser, path)
    assert ask(browser, f"{ROWS}[0]") == "naïve ü"
    assert "2 of the files could not be read" in browser.find_element("id", "problems").text
    for position in range(len(runs)):
        click(browser, f"#table tbody tr[data-run='{position}'] th a")
        chromium.wait_for(browser, f"return document.querySelector('#run h2').textContent === runs[{position}].name")
        browser.back()
        chromium.wait_for(browser, "return !document.getElementById('overview').hidden")
    chromium.open_page(browser, path, "#run=%")
    assert len(browser.find_elements("css selector", "#table tbody tr")) == 4
    assert chromium.console_errors(browser) == []


def test_writing_a_page_loads_no_torch_and_only_its_owner_can_read_it_until_chmod(study, tmp_path):
    shutil.copytree(study[1]["run_00000"].path, tmp_path / "run")
    code = "import sys, synthesize_results as s; s.main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--html", "--parent_dir", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, umask=0o022).returncode == 0
    page = tmp_path / "results.html"
    assert "data:image/png" in page.read_text(encoding="utf-8") and page.stat().st_mode & 0o777 == 0o600
    page.chmod(0o644)
    page_of(tmp_path)
    assert page.stat().st_mode & 0o777 == 0o644
