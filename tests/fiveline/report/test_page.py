"""The page of a study as a person meets it: in a browser, offline, with clicks, keys, small screens, hostile names."""

import collections
import csv
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fiveline.report.columns import all_columns
from fiveline.report.filter import parse_filter
from fiveline.report.intervals import proportion
from fiveline.report.page import write_page
from fiveline.report.predictions import read_intervals
from fiveline.report.runs import read_runs
from fiveline.report.shares import Shares, to_npz
from tests.support import browser as chromium
from tests.support.tasks import needs

pytestmark = pytest.mark.slow  # a browser for most of them

needs_browser = pytest.mark.skipif(chromium.why_no_browser() is not None, reason=str(chromium.why_no_browser()))
PWNED = "<img src=x onerror=window.pwned=1><a href='javascript:window.pwned=1'>x"
ROWS = "return [...document.querySelectorAll('#table tbody tr')].map((row) => row.querySelector('th a').textContent)"
METRICS = ("accuracy", "macro_precision", "macro_recall", "macro_f1")


def page_of(folder):
    runs, problems = read_runs(folder)
    for run in runs:
        read_intervals(run, problems)
    problems += write_page(runs, folder / "results.html", folder)
    return folder / "results.html", runs, problems


def write_run(folder, params, val=None, rows=(), classes=(), test=0.5, num_epochs=3, **record):
    """Write a run directory; rows are predictions."""
    folder.mkdir(parents=True)
    params = {"monitor": "accuracy", **params}
    record = {"status": "finished", "params": params, "epochs": num_epochs, **record}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics_val_best_weights.json").write_text(json.dumps(val if val is not None else {"accuracy": 0.5}))
    lines = []
    for epoch in range(1, num_epochs + 1):
        metrics = {"accuracy": 1 - 1 / epoch, "loss": 1 / epoch}
        lines.append({"epoch": epoch, "train": metrics, "val": metrics})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if rows:
        (folder / "metrics_test_best.json").write_text(json.dumps({"accuracy": test}))
        with (folder / "predictions_test_best.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if classes:
        text = "class,examples,f1\n" + "".join(f'"{name}",1,0.5\n' for name in classes)
        (folder / "per_class_test_best.csv").write_text(text)


def write_study(parent_dir, num_runs, num_predicted):
    """Write runs with six hyperparameters that decide how good each is; the first have predictions on the digits."""
    chance, digits = random.Random(230), [str(digit) for digit in range(10)]
    for number in range(num_runs):
        varied = {
            "seed": chance.choice([1, 2, 3]),
            "learning_rate": float(f"{10 ** chance.uniform(-4, -1):.3g}"),
            "weight_decay": float(f"{chance.uniform(0, 0.1):.3g}"),
            "dropout_rate": chance.choice([0.0, 0.3, 0.6]),
            "batch_size": chance.choice([16, 32, 64, 128]),
            "optimizer": chance.choice(["adam", "adamw", "sgd"]),
        }
        far = abs(math.log10(varied["learning_rate"]) + 2.5) / 2 + (varied["optimizer"] == "sgd") * 0.2
        accuracy = min(0.999, 0.98 - 0.25 * far**2 + chance.gauss(0, 0.006))
        labels = [digits[i % 10] for i in range(270 if number < num_predicted else 0)]
        rows = [
            {
                "id": f"test[{i}]", "label": label, "confidence": 0.9, "loss": chance.random(),
                "prediction": label if chance.random() < accuracy else chance.choice(digits),
            }
            for i, label in enumerate(labels)
        ]  # fmt: skip
        write_run(
            parent_dir / f"run_{number:05d}",
            {"task": "vision", "data_dir": "data/digits", "num_channels": 32, **varied},
            {**dict.fromkeys(METRICS, accuracy), "loss": 2.5 * (1.02 - accuracy)},
            rows,
            digits if rows else (),
            test=accuracy - 0.004,
            num_epochs=20,
            status="finished" if chance.random() < 0.96 else "failed",
            seconds=20 + chance.random() * 60,
        )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The page of a study with 200 runs, 20 of them with predictions, and the runs."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, 200, 20)
    path, runs, problems = page_of(folder)
    assert problems == []
    return path, runs


@pytest.fixture(scope="module")
def browser():
    with chromium.open_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser, study):
    """The browser with the study's page open, on a laptop's screen."""
    chromium.set_screen(browser)
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


@needs_browser
def test_page_draws_every_chart_asks_for_nothing_and_says_nothing_on_the_console(opened):
    charts = opened.execute_script("return [...document.querySelectorAll('.chart')].map((chart) => chart.id)")
    assert len(charts) == 1 + 6  # learning curves, and one for each hyperparameter
    empty = "return [...document.querySelectorAll('.chart')].filter((c) => !c.querySelector('.trace path, .point'))"
    assert opened.execute_script(empty) == []
    assert chromium.requests_made(opened) == []
    assert chromium.console_errors(opened) == []


@needs_browser
def test_table_shows_the_values_of_the_runs_the_best_first(opened, study):
    best = max(study[1], key=lambda run: run.val["accuracy"])
    assert opened.execute_script(ROWS)[0] == best.name
    row = opened.find_element("css selector", "#table tbody tr")
    assert f"{best.val['accuracy']:.4f}" in row.text and "best" in row.text
    assert len(opened.find_elements("css selector", "#table tbody tr")) == 100
    click(opened, "#more")
    assert len(opened.find_elements("css selector", "#table tbody tr")) == 200


@needs_browser
def test_each_data_has_its_rows_its_star_and_its_charts(browser, tmp_path):
    for i in range(6):
        name = "easy" if i < 2 else "hard"
        params = {"task": "vision", "data_dir": f"data/{name}", "learning_rate": 0.1 * (i + 1)}
        write_run(tmp_path / f"{name}_{i}", params, {"accuracy": (0.99 if i < 2 else 0.5) + i / 1000, "loss": 0.1})
        record = json.loads((tmp_path / f"{name}_{i}/run.json").read_text())
        (tmp_path / f"{name}_{i}/run.json").write_text(json.dumps({**record, "data": {"fingerprint": name}}))
    write_run(tmp_path / "alone", {"task": "ner"}, {"accuracy": 1.0, "loss": 0.1})
    chromium.set_screen(browser)
    chromium.open_page(browser, page_of(tmp_path)[0])
    rows = "return [...document.querySelectorAll('#table tbody tr')].map((row) => row.querySelector('th').textContent)"
    hard = ["hard_5★ best", "hard_4", "hard_3", "hard_2"]
    expected = ["vision easy", "easy_1★ best", "easy_0", "vision hard", *hard, "ner data not recorded", "alone"]
    assert browser.execute_script(rows) == expected
    facts = browser.find_element("id", "facts").text
    assert "best accuracy, vision easy" in facts and "best accuracy, vision hard" in facts and "alone" not in facts
    drawn = "return document.querySelector('#each-charts .chart').data[0].x.length"
    assert browser.execute_script(drawn) == 4  # the largest group
    browser.find_element("css selector", "#data option:first-child").click()
    chromium.wait_drawn(browser)
    assert browser.execute_script(drawn) == 2
    click(browser, "#table tbody tr:nth-child(2) input")
    position = browser.execute_script("return columnNamed.get('accuracy').index")
    click(browser, f"#table th[data-column='{position}'] button")
    click(browser, f"#table th[data-column='{position}'] button")
    assert browser.execute_script(rows) == [
        *expected[:1],
        "easy_0",
        "easy_1★ best",
        "vision hard",
        *hard[::-1],
        *expected[-2:],
    ]
    assert chromium.console_errors(browser) == []


@needs_browser
def test_a_click_on_a_column_sorts_and_a_second_one_turns_round(opened, study):
    click(opened, "#more")
    position = opened.execute_script("return columnNamed.get('learning_rate').index")
    button = f"#table th[data-column='{position}'] button"
    for turned, said in ((False, "ascending"), (True, "descending")):
        click(opened, button)
        expected = sorted(study[1], key=lambda run: run.params["learning_rate"], reverse=turned)
        shown = [next(run for run in study[1] if run.name == name) for name in opened.execute_script(ROWS)]
        assert [r.params["learning_rate"] for r in shown] == [r.params["learning_rate"] for r in expected]
        assert (
            opened.find_element("css selector", f"#table th[data-column='{position}']").get_attribute("aria-sort")
            == said
        )
    assert len(opened.find_elements("css selector", "#table th[aria-sort=descending]")) == 1


@needs_browser
def test_filter_narrows_table_and_charts(opened, study):
    type_filter(opened, "optimizer == 'sgd' and learning_rate < 0.001")
    wanted = {run.name for run in study[1] if run.params["optimizer"] == "sgd" and run.params["learning_rate"] < 0.001}
    assert set(opened.execute_script(ROWS)) == wanted
    assert f"{len(wanted)} of 200 runs" in opened.find_element("id", "filter-note").text
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('#each-charts .chart')].map((c) => c.data[0].x.length)"
    )
    assert drawn == [len(wanted)] * 6
    type_filter(opened, "run_00007")
    assert opened.execute_script(ROWS) == ["run_00007"]
    type_filter(opened, "learning_rate <")
    assert "found the end" in opened.find_element("id", "filter-note").text
    assert len(opened.execute_script(ROWS)) == 100


@needs_browser
def test_filter_of_the_page_means_what_it_means_on_the_command_line(opened, study):
    script = "const {test} = readFilter(arguments[0]); return runs.filter(test).map((run) => run.name)"
    for text in EXPRESSIONS:
        test = parse_filter(text, all_columns(study[1]))
        wanted = [run.name for run in study[1] if test(run) is True]
        assert sorted(opened.execute_script(script, text)) == wanted, text
        assert 0 < len(wanted) < 200 or text in NONE_MATCHES, text


NONE_MATCHES = ["optimizer < 3"]
EXPRESSIONS = [
    *NONE_MATCHES,
    "learning_rate < 0.01 and optimizer == 'adam' or batch_size == 16",
    "not (optimizer == 'adam' or optimizer == \"sgd\")",
    "test_accuracy >= 0.95",
    "0.001 <= learning_rate < 0.01",
    "optimizer in ['adam', 'adamw'] and batch_size not in [16, 32]",
    "status == 'failed'",
    "'00' in run and seed != 2",
    "weight_decay is not None and dropout_rate == 0",
    "learning_rate >= 1e-3 and time > 50.",
]


@needs_browser
def test_columns_can_be_chosen(opened):
    heads = "return [...document.querySelectorAll('#table thead button')].map((button) => button.textContent)"
    assert "seed" in opened.execute_script(heads) and "macro_f1" not in opened.execute_script(heads)
    opened.find_element("css selector", "#columns summary").click()
    for name in ("seed", "macro_f1"):
        opened.find_element("xpath", f"//div[@id='column-list']//label[.='{name}']").click()
    assert "seed" not in opened.execute_script(heads) and "macro_f1" in opened.execute_script(heads)


@needs_browser
def test_chosen_runs_have_curves(opened, study):
    click(opened, "#choose-none")
    assert opened.execute_script("return document.getElementById('curve-chart').data.length") == 0
    click(opened, "#table tbody tr:nth-child(3) input")
    name = opened.execute_script(ROWS)[2]
    run = next(run for run in study[1] if run.name == name)
    lines = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    drawn = opened.execute_script(
        "return document.getElementById('curve-chart').data.map((trace) => [trace.x, trace.y])"
    )
    for (epochs, values), split in zip(drawn, ("val", "train"), strict=True):
        assert epochs == [line["epoch"] for line in lines]
        assert values == pytest.approx([line[split]["accuracy"] for line in lines], rel=1e-4)
    click(opened, "#chosen button")
    assert not opened.find_element("css selector", "#table tbody tr:nth-child(3) input").is_selected()


@needs_browser
def test_a_run_has_a_page_of_its_own_with_confusion_matrix_and_mistakes(opened, study):
    from selenium.webdriver.common.keys import Keys

    type_filter(opened, "run_00003")
    opened.find_element("css selector", "#table tbody th a").send_keys(Keys.ENTER)
    chromium.wait_for(opened, "return document.querySelector('#run h2') !== null")
    assert opened.execute_script("return document.activeElement.tagName") == "H2"
    run = next(run for run in study[1] if run.name == "run_00003")
    with (run.path / "predictions_test_best.csv").open() as file:
        pairs = collections.Counter((row["label"], row["prediction"]) for row in csv.DictReader(file))
    rows = "[...document.querySelectorAll('.matrix tbody tr')]"
    script = f"return {rows}.map((row) => [...row.cells].slice(1).map((cell) => cell.textContent))"
    digits = [str(digit) for digit in range(10)]
    assert opened.execute_script(script) == [[str(pairs[a, b] or "·") for b in digits] for a in digits]
    images = chromium.wait_for(opened, "const all = [...document.querySelectorAll('.mistakes img')]; "
                               "return all.every((i) => i.complete) && all.map((i) => i.naturalWidth)")  # fmt: skip
    wrong = sum(number for (a, b), number in pairs.items() if a != b)
    assert images == [8] * min(wrong, 24)
    opened.back()
    chromium.wait_for(opened, "return !document.getElementById('overview').hidden")
    assert chromium.console_errors(opened) == []


@needs_browser
def test_names_with_tags_and_scripts_are_shown_as_they_are(browser, tmp_path):
    name, value = PWNED, "</script><script>window.pwned=1</script><!--<script>"
    rows = [{"id": f"{PWNED}{i}", "label": PWNED, "prediction": value, "loss": "1"} for i in range(3)]
    link = "<a href='javascript:window.pwned=1'>x"
    for i in range(12):
        params = {"task": PWNED, "data_dir": value, f"{PWNED}": i, "net": [value, link, "{{policy}} %{x} $x$"][i % 3]}
        write_run(
            tmp_path / f"{name}{i}",
            params,
            {"accuracy": i / 12, PWNED: 0.5, link: i},
            rows,
            [PWNED, value],
            status=value,
        )
    path, runs, _ = page_of(tmp_path)
    chromium.set_screen(browser)
    first = runs[-1].name
    for fragment in ("", "#run=" + "".join(f"%{byte:02x}" for byte in first.encode())):
        chromium.open_page(browser, path, fragment)
        hover = "Plotly.Fx.hover(chart, [{curveNumber: 0, pointNumber: 0}])"
        browser.execute_script(f"document.querySelectorAll('.chart').forEach((chart) => chart.data && {hover})")
        labels = browser.execute_script(
            "return [...document.querySelectorAll('.hoverlayer')].map((l) => l.textContent)"
        )
        assert [text for text in labels if text and PWNED not in text] == [] and any(labels)
        shown = browser.execute_script("return document.body.innerText")
        assert name in shown and value in shown
        assert browser.execute_script("return window.pwned") is None
        made = "return document.querySelectorAll('img[src=x], svg a, a[href^=javascript]').length"
        assert browser.execute_script(made) == 0
        assert chromium.console_errors(browser) == []
    assert browser.execute_script("return document.querySelectorAll('#run .mistakes li').length") == 3


@needs_browser
def test_page_forbids_scripts_and_requests_that_are_not_its_own(opened):
    insert = "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.pwned=1\">')"
    opened.execute_script(
        insert
        + "; document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.org/x.png'}))"
    )
    refused = "return fetch('https://example.org/').then(() => 'sent', () => 'refused')"
    assert opened.execute_script(refused) == "refused"
    assert opened.execute_script("return window.pwned") is None
    assert any("Content Security Policy" in line for line in chromium.console_errors(opened))


@needs_browser
def test_page_is_usable_with_2000_runs(browser, tmp_path):
    write_study(tmp_path, 2000, 0)
    path, runs, _ = page_of(tmp_path)
    chromium.set_screen(browser)
    chromium.open_page(browser, path)
    assert len(browser.find_elements("css selector", "#table tbody tr")) == 100  # a button shows more
    assert "2000" in browser.find_element("id", "facts").text
    type_filter(browser, "batch_size == 32")
    wanted = sum(run.params["batch_size"] == 32 for run in runs)
    assert f"{wanted} of 2000 runs" in browser.find_element("id", "filter-note").text
    click(browser, "#table tbody tr:nth-child(8) input")
    assert len(browser.find_elements("css selector", "#chosen li")) == 6
    assert chromium.console_errors(browser) == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1366])
def test_page_fits_the_screen_and_its_text_can_be_read(browser, study, width, scheme):
    chromium.set_screen(browser, width, 844, scheme)
    for fragment in ("", "#run=run_00003"):
        chromium.open_page(browser, study[0], fragment)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        contrasts = browser.execute_script(CONTRASTS)
        assert contrasts and min(contrasts.values()) >= 4.5, {k: v for k, v in contrasts.items() if v < 4.5}
        text = browser.execute_script("return getComputedStyle(document.body).color")
        assert (text == "rgb(230, 233, 237)") == (scheme == "dark")


CONTRASTS = """
const level = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const light = ([r, g, b]) => 0.2126 * level(r) + 0.7152 * level(g) + 0.0722 * level(b);
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const back = (element) => {
  const [r, g, b, a = 1] = parse(getComputedStyle(element).backgroundColor);
  if (a === 0 && element.parentElement) return back(element.parentElement);
  const below = a < 1 ? (element.parentElement ? back(element.parentElement) : [255, 255, 255]) : [0, 0, 0];
  return [r, g, b].map((c, i) => c * a + below[i] * (1 - a));
};
const found = {};
for (const element of document.querySelectorAll("main *:not(option), header *, footer *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && !["", "·"].includes(node.data.trim()));
  if (!own || element.closest("svg") || element.closest("[hidden]") || !element.offsetParent) continue;
  const [a, b] = [light(parse(getComputedStyle(element).color)), light(back(element))].sort((x, y) => y - x);
  const name = `${element.tagName} ${element.className} ${element.textContent.slice(0, 20)}`;
  found[name] = Math.min(found[name] || 99, (a + 0.05) / (b + 0.05));
}
return found;
"""


@needs_browser
def test_page_works_by_keyboard_and_everything_has_a_name_for_a_screen_reader(opened):
    from selenium.webdriver.common.keys import Keys

    body = opened.switch_to.active_element
    body.send_keys(Keys.TAB)
    assert opened.switch_to.active_element.text == "Skip to the runs"
    assert opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for _ in range(30):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        if opened.execute_script("return document.activeElement.closest('#table thead') !== null"):
            break
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    focused = opened.execute_script("return document.activeElement.closest('th').getAttribute('aria-sort')")
    assert focused == "ascending", "the focus stays where it was, and the column is sorted"
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "checkbox", "combobox", "searchbox", "link", "image", "img", "table", "region", "heading")
    named = [
        (n["role"]["value"], n["name"]["value"])
        for n in nodes
        if n.get("role", {}).get("value") in roles and not n["ignored"]
    ]
    assert {role for role, _ in named} >= {"button", "checkbox", "combobox", "link", "heading"}
    assert [role for role, name in named if not name and role != "table"] == []
    assert any("accuracy against learning_rate" in name for role, name in named if role in ("image", "img"))


@needs_browser
@needs("ner", "tabular")
def test_sentences_rows_and_quantities_are_shown_with_their_mistakes(browser, project, tmp_path):
    tokens = (project / "data/ner_small/test/sentences.txt").read_text(encoding="utf-8").splitlines()[1].split()
    tags = ["O"] * len(tokens)
    wrong = {"id": "test/sentences.txt:2", "label": " ".join(tags), "prediction": " ".join(["B-PER", *tags[1:]])}
    right = {"id": "test/sentences.txt:1", "label": "O O", "prediction": "O O"}
    rows = [{**wrong, "loss": "2"}, {**right, "loss": "1"}]
    write_run(tmp_path / "ner", {"task": "ner", "data_dir": str(project / "data/ner_small")}, rows=rows)
    rows = [{"id": "1", "label": "3", "prediction": "8", "confidence": "0.9", "loss": "2"}]
    data_dir = str(project / "data/digits_rows")
    write_run(tmp_path / "rows", {"task": "tabular", "data_dir": data_dir}, rows=rows, classes=["3", "8"])
    rows = [{"id": str(i), "label": str(i * 10.0), "prediction": str(i * 11.0), "loss": str(i)} for i in range(1, 9)]
    diabetes = {"task": "tabular", "data_dir": "gone", "target": "progression", "target_type": "number"}
    write_run(tmp_path / "number", diabetes, rows=rows)
    path, _, _ = page_of(tmp_path)
    chromium.set_screen(browser)
    chromium.open_page(browser, path, "#run=ner")
    sentence = browser.find_element("css selector", ".sentence")
    assert [word.text for word in sentence.find_elements("css selector", ".token.off")] == [f"{tokens[0]}\nB-PER → O"]
    assert " ".join(tokens) == " ".join(sentence.text.replace("B-PER → O", " ").split())
    chromium.open_page(browser, path, "#run=rows")
    with (project / "data/digits_rows/test.csv").open() as file:
        first = next(csv.DictReader(file))
    cells = browser.find_element("css selector", ".cells").text.split()
    name, value = next((name, value) for name, value in first.items() if name != "digit")
    assert cells[:2] == [name, value]
    chromium.open_page(browser, path, "#run=number")
    chromium.wait_for(browser, "return document.querySelector('#points-chart .point') !== null")
    assert "gone: there is no such data directory" in browser.find_element("id", "run").text
    assert browser.find_element("css selector", ".mistakes li").text.startswith("88.0 should be 80.0")
    assert chromium.console_errors(browser) == []


@needs_browser
def test_a_run_shows_the_intervals_of_its_metrics_and_whole_class_names(browser, tmp_path):
    names = ["common chrysanthemum", "rhododendron_ferrugineum"]
    rows = [
        {"id": str(i), "label": names[0], "prediction": names[i > 30], "confidence": "1", "loss": "1"}
        for i in range(40)
    ]
    write_run(tmp_path / "only", {"seed": 1}, rows=rows, classes=names, test=31 / 40)
    hits = (np.arange(40)[:, None] < 31).astype(float)
    shares = {"accuracy": Shares(hits, np.ones_like(hits), np.ones_like(hits, dtype=bool))}
    (tmp_path / "only/shares_test_best.npz").write_bytes(to_npz(shares, {"accuracy": proportion(31, 40)}))
    path, _, problems = page_of(tmp_path / "only")
    chromium.set_screen(browser, 390, 844)
    chromium.open_page(browser, path)
    low, high = proportion(31, 40)
    assert problems == [] and f"{low:.4f} to {high:.4f}" in browser.find_element("id", "run").text
    assert browser.find_element("css selector", "#run .legend").text
    # a word is broken if one character of it stands in another line
    lines = """
        return [...document.querySelectorAll('.class-name')].flatMap((name) => [...name.childNodes]
          .filter((node) => node.nodeType === 3).map((node) => {
            const range = document.createRange(); range.selectNodeContents(node);
            return new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size; }))"""
    assert set(browser.execute_script(lines)) == {1}
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


@needs_browser
def test_page_of_a_single_run_is_that_run(browser, tmp_path):
    write_run(tmp_path / "only", {"learning_rate": 0.1}, {"accuracy": 0.75})
    path, _, _ = page_of(tmp_path / "only")
    chromium.set_screen(browser)
    chromium.open_page(browser, path)
    chromium.wait_for(browser, "return document.querySelector('#run-chart .trace') !== null")
    text = browser.find_element("id", "run").text
    assert "only" in text and "0.7500" in text and "learning_rate" in text and "evaluate.py makes them" in text


@needs_browser
def test_runs_without_metrics_or_history_make_a_page_too(browser, tmp_path):
    for name, value in (("a", float("nan")), ("b", float("inf")), ("c", 0.5)):
        write_run(tmp_path / name, {"net": name, "deep.key": [1]}, {"accuracy": value})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/run.json").write_text('{"status": "failed"}')
    (tmp_path / "a/history.jsonl").write_text('{"epoch": 1, "val": {"accuracy": NaN}}\n{"epoch": 2, "va')
    (tmp_path / "b/predictions_test_best.csv").write_text("\0\0")
    path, _, problems = page_of(tmp_path)
    assert len(problems) == 2
    chromium.set_screen(browser)
    chromium.open_page(browser, path)
    assert browser.execute_script(ROWS)[0] == "c" or browser.execute_script(ROWS)[0] == "b"
    assert "2 of the files could not be read" in browser.find_element("id", "problems").text
    assert chromium.console_errors(browser) == []


@needs_browser
def test_names_that_are_no_text_have_a_page_too(browser, tmp_path):
    for name in (b"caf\xe9", b"100% + #1?", "naïve ü".encode()):
        write_run(tmp_path / os.fsdecode(name), {"net": os.fsdecode(name)})
    path, runs, problems = page_of(tmp_path)
    assert problems == [] and len(runs) == 3
    chromium.set_screen(browser)
    chromium.open_page(browser, path)
    for position in (1, 2, 3):
        click(browser, f"#table tbody tr:nth-child({position}) th a")
        shown = "document.querySelector('#run h2').textContent"
        chromium.wait_for(browser, f"return {shown}.startsWith(sorted()[{position - 1}].name)")
        browser.back()
        chromium.wait_for(browser, "return !document.getElementById('overview').hidden")
    chromium.open_page(browser, path, "#run=%")
    assert len(browser.find_elements("css selector", "#table tbody tr")) == 3 and chromium.console_errors(browser) == []


def test_page_is_one_file_that_names_no_other(study):
    html = study[0].read_text(encoding="utf-8")
    without_scripts = re.sub(r"(?s)<script.*?</script>", "", html)
    assert re.findall(r"https?://[^\"' )]+", without_scripts) == []
    assert set(re.findall(r"(?:src|href)=\"([^\"]*)\"", without_scripts)) == {"#runs", "data:,"}
    assert html.count("plotly.js v") == 1 and "default-src 'none'" in html
    assert [path.name for path in study[0].parent.iterdir() if path.is_file()] == ["results.html"]


def test_writing_a_page_loads_no_torch(study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(study[1][0].path, folder / study[1][0].name)
    code = (
        "import sys, pathlib; from fiveline.report import page, runs; folder = pathlib.Path(sys.argv[1]); "
        "page.write_page(runs.read_runs(folder)[0], folder / 'results.html', folder); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)]).returncode == 0
    assert "data:image/png" in (folder / "results.html").read_text(encoding="utf-8")


def test_curves_of_long_runs_are_thinned_out_and_keep_their_ends(tmp_path, monkeypatch):
    from fiveline.report import page

    write_run(tmp_path / "long", {})
    lines = [{"epoch": i, "val": {"accuracy": i / 1000}} for i in range(1, 1001)]
    (tmp_path / "long/history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(page, "MOST_NUMBERS", 500)
    curves = page.describe_study(read_runs(tmp_path)[0], tmp_path, [], set())["curves"][0]
    assert (curves["epochs"][0], curves["epochs"][-1], len(curves["epochs"])) == (1, 1000, 50)
    assert curves["series"]["accuracy"][-1] == 1.0


@pytest.mark.skipif(os.name == "nt", reason="its permissions are others")
def test_page_is_for_nobody_who_may_not_read_its_examples(tmp_path):
    from PIL import Image

    data, runs = tmp_path / "data", tmp_path / "runs"
    image = data / "test/cat/1.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(image)
    rows = [{"id": "cat/1.png", "label": "cat", "prediction": "dog", "confidence": "0.5", "loss": "1.0"}]
    write_run(runs / "run", {"task": "vision", "data_dir": str(data)}, rows=rows)
    page = runs / "results.html"

    def mode_of(closed, mode, is_new=True):
        usual = closed.stat().st_mode
        closed.chmod(mode)
        page.unlink(missing_ok=is_new) if is_new else page.chmod(0o644)
        page_of(runs)
        closed.chmod(usual)
        assert "data:image/png" in page.read_text(encoding="utf-8")
        return page.stat().st_mode & 0o777

    before = os.umask(0o022)
    try:
        assert mode_of(image, 0o644) == 0o644
        for is_new in (True, False):
            for path in (image, runs / "run/predictions_test_best.csv"):
                assert mode_of(path, 0o600, is_new) == mode_of(path, 0o640, is_new) == 0o600
            for folder in (image.parent, data, runs / "run"):
                assert mode_of(folder, 0o700, is_new) == 0o600
        assert mode_of(tmp_path, 0o700) == mode_of(runs, 0o700) == 0o644  # they protect the page as well
        image.unlink()
        image.parent.rmdir()
        np.savez(data / "test.npz", images=np.zeros((2, 8, 8), np.uint8), labels=[0, 1])
        shutil.rmtree(data / "test")
        path = runs / "run/predictions_test_best.csv"
        path.write_text(path.read_text().replace("cat/1.png", "test[1]"))
        assert mode_of(data / "test.npz", 0o644) == 0o644 and mode_of(data / "test.npz", 0o600) == 0o600
    finally:
        os.umask(before)
