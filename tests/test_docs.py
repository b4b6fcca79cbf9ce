"""What the README and the docs print works as printed."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ids = {"ids": lambda page: page.name}


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    return [code for language, code in found if language in languages]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], **ids)
def test_python_blocks_run(
    page: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks of a page run one after the other, as a reader would paste them; printed comments are what is printed."""
    from vaelens.runs import load_run
    from vaelens.scoring.local import score
    from vaelens.scoring.sources import Source

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/ones")
    run = load_run("runs/ones")
    score(run, Source(run, ["digits"]), Path("scored"), pictures=False)
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)
        printed = capsys.readouterr().out
        shown = re.findall(r"^print\(.*?\)(?: +# (.+))?$", code, flags=re.M)
        if len(shown) == len(printed.splitlines()):
            for expected, line in zip(shown, printed.splitlines(), strict=True):
                assert not expected or line == expected.split(": ")[0], f"{page.name} says {expected!r}, got {line!r}"
        else:
            assert not any(shown), f"{page.name}: what is printed is said beside another number of lines"


@pytest.mark.parametrize("page", PAGES, **ids)
def test_commands_have_the_options_they_are_shown_with(page: Path) -> None:
    import typer.main

    from vaelens.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    indented = re.findall(r"^ {4}vaelens (\w+)(.*)$|`vaelens (\w+)([^`]*)`", page.read_text(), flags=re.M)
    shown = [(a or c, b or d) for a, b, c, d in indented]
    shown += [found for code in blocks(page, "sh") for found in re.findall(r"^vaelens (\w+)(.*)$", code, flags=re.M)]
    assert shown or page.name in ("method.md", "explain.md", "CONTRIBUTING.md")
    for code in blocks(page, "sh"):  # as they stand, with what they cannot be without
        for name, rest in re.findall(r"^vaelens (\w+)(.*)$", code.replace("\\\n", " "), flags=re.M):
            needed = [one.opts[0] for one in commands[name].params if one.required and one.opts[0].startswith("--")]
            assert all(f"{option} " in rest for option in needed), f"{page.name}: vaelens {name} needs {needed}"
    for name, rest in shown:
        assert name in commands, f"{page.name}: there is no command {name}"
        options = {option for parameter in commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
        for option in re.findall(r"--[a-z-]+", rest.split("#")[0]):
            assert option in options, f"{page.name}: vaelens {name} has no {option}"


@pytest.mark.parametrize("page", PAGES, **ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, **ids)
def test_tables_are_whole(page: Path) -> None:
    """Each has a head, a rule below it, and as many cells in every row: else it is shown as text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for table in re.findall(r"(?:^ *\|.*\n)+", text, flags=re.M):
        rows = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in table.splitlines()]
        assert all(re.fullmatch(r" *:?-+:? *", cell) for cell in rows[1]), f"{page.name}: no rule below {table.splitlines()[0]}"
        for row in rows:
            assert len(row) == len(rows[0]), f"{page.name}: {len(row)} cells below {len(rows[0])}: {row}"


def test_no_place_holder_is_left() -> None:
    for page in PAGES:
        assert not re.search(r"\b(TODO|TBD|FIXME|[A-Z]+_TABLE)\b", page.read_text()), page.name


def test_example_model_of_the_docs_is_exact() -> None:
    """The model that docs/explain.md explains in closed form has the maps that one backward pass per latent gives."""
    from vaelens import LatentAttention

    names: dict[str, object] = {}
    exec(blocks(ROOT / "docs" / "explain.md", "python")[0], names)
    vae, images = names["vae"], names["images"]
    maps = LatentAttention(vae)(images)  # type: ignore[arg-type]
    features = torch.relu(vae.conv2(torch.relu(vae.conv1(images))))  # type: ignore[attr-defined]
    hidden = torch.relu(vae.fc(features.flatten(1)))  # type: ignore[attr-defined]
    mean = vae.head(hidden).chunk(2, dim=1)[0]  # type: ignore[attr-defined]
    for i in range(10):
        (gradient,) = torch.autograd.grad(mean[:, i].sum(), features, retain_graph=True)
        expected = torch.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1))
        assert torch.allclose(maps.per_latent[:, i], expected, atol=1e-7)


def test_the_table_of_defects_is_what_the_benchmark_kept() -> None:
    """Its cells by the benchmark from the file of its figures; what is printed bold there is bold for people."""
    import runpy

    benchmark = runpy.run_path(str(ROOT / "benchmarks/localization.py"))
    kept = json.loads((ROOT / "benchmarks/results/localization.json").read_text())
    shown = (ROOT / "README.md").read_text().replace("**", "")
    for name in {name for one in kept for name in one["localizers"]}:
        cells = []
        for data in benchmark["DATA"]:
            ours = [one["localizers"][name] for one in kept if one["data"] == data and name in one["localizers"]]
            means = [sum(one[figure] for one in ours) / len(ours) for figure in benchmark["FIGURES"]] if ours else []
            cells.append(" / ".join(benchmark["short"](value) for value in means) or "-")
        assert f"| {name} | {' | '.join(cells)} |" in shown
    for data in benchmark["DATA"]:
        seeds = ", ".join(str(one["seed"]) for one in kept if one["data"] == data)
        assert f"({seeds}) |" in shown


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_the_papers_tables_are_what_the_commands_wrote(table: str) -> None:
    """Means and spreads of every row, the paper's figures where there are any, and the mark of what is not above the floors."""
    import runpy

    from vaelens.paper.written import BELOW

    short = runpy.run_path(str(ROOT / "benchmarks/localization.py"))["short"]
    kept = json.loads((ROOT / f"benchmarks/results/{table}.json").read_text())
    shown = (ROOT / "README.md").read_text().replace("**", "")
    order = ("pixel_auroc", "pixel_ap", "best_iou") if table == "table1" else ("pixel_auroc", "best_iou", "pixel_ap")
    for row in kept["rows"]:
        assert row["seeds"] == [0, 1, 2]
        cells = [f"{short(row[figure])} ± {short(row[f'{figure}_spread'])}" for figure in (*order, "image_auroc")]
        if table == "table2":
            quoted = [f"{row['paper'][figure]:.2f}".lstrip("0") for figure in ("pixel_auroc", "best_iou") if row["paper"]]
            cells.insert(2, " / ".join(quoted))
        mark = f" {BELOW}" if row["below_floors"] else ""
        assert re.search(
            rf"^\| {re.escape(row['localizer'])}[^|*]*{re.escape(mark)} \| {re.escape(' | '.join(cells))} \|$", shown, re.M
        ), row


def test_the_tables_of_judged_maps_are_what_the_command_printed() -> None:
    """Every row of every table of docs/judge.md, in order, from the files that `evaluate --faithfulness --json` made."""
    import runpy

    benchmark = runpy.run_path(str(ROOT / "benchmarks/faithfulness.py"))
    text = (ROOT / "docs" / "judge.md").read_text().replace("**", "")
    tables = benchmark["tables"]()
    assert {name for name in tables if name.startswith("curves")} == {f"curves {data}" for data in benchmark["DATA"]}
    for name, rows in tables.items():
        assert rows or name == "inside"  # of which only data with masks have any
        if not rows:
            continue
        head = benchmark["HEADS"][name.split()[0]]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
        assert "\n".join(lines) in text, name
    for data in benchmark["DATA"]:
        found = benchmark["kept"](data)
        assert (found["seed"], found["replacement"]) == (0, "blur")
        assert set(found["methods"]) >= {"cvpr", "arxiv_v1", "expvae", "hirescam", "integrated-gradients"}


def test_how_fast_an_exported_run_is_is_what_the_benchmark_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    print_rows = runpy.run_path(str(ROOT / "benchmarks/export.py"))["print_rows"]
    for network, found in json.loads((ROOT / "benchmarks/results/export.json").read_text()).items():
        print_rows(network, found)
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 10
    assert "\n".join(rows) in (ROOT / "docs" / "ship.md").read_text()


def test_the_papers_table_3_is_what_the_command_wrote() -> None:
    """Means and spreads with each seed's score in the README, every figure of each seed in the docs; and what was compared."""
    figures = {"factor_vae_score": 3, "mig": 3, "dci_disentanglement": 3, "reconstruction": 1, "total_correlation": 2}
    figures |= {"attention_overlap": 3, "attention_overlap_of_drawn": 3, "empty_maps": 3}

    def short(value: float, figure: str) -> str:
        return re.sub(r"^0(?=\.)", "", f"{value:.{figures[figure]}f}")

    def mean(row: dict[str, Any], figure: str) -> str:
        spread = row[f"{figure}_spread"]
        return short(row[figure], figure) + ("" if spread is None else f" ± {short(spread, figure)}")

    readme, page = ((ROOT / name).read_text().replace("**", "") for name in ("README.md", "docs/disentanglement.md"))
    whole, compared, fresh = (
        json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["rows"]
        for name in ("table3", "table3_compared", "table3_fresh")
    )
    scores: dict[str, list[float]] = {}
    for row in [*whole, *fresh]:
        scores.setdefault(row["label"], []).extend(row["factor_vae_score_seeds"])
    for row in fresh:
        assert (row["seeds"], row["steps"]) == ([3, 4], [15_000] * 2)
        assert row["label"] in {one["label"] for one in whole}  # the same settings
        each = ", ".join(short(value, "factor_vae_score") for value in row["factor_vae_score_seeds"])
        over_all = [short(figure(scores[row["label"]]), "factor_vae_score") for figure in (statistics.fmean, statistics.stdev)]
        name = row["label"].split(",")[0]
        assert re.search(rf"(?<!-){name}\s+(has\s+)?{re.escape(each)}", readme)
        for text in (readme, page):
            assert re.search(rf"(?<!-){name}\s+(has\s+)?{re.escape(' ± '.join(over_all))}", text)
    assert [row["objective"] for row in fresh] == ["factor", "ad-factor"]
    for row in compared:
        if row["seeds"] == [0, 1, 2, 3, 4]:
            assert mean(row, "factor_vae_score") in readme
    for row in whole:
        several = len(row["seeds"]) > 1
        assert row["seeds"] == ([0, 1, 2] if several else [0])
        assert row["steps"] == [15_000] * len(row["seeds"])
        each = [short(value, "factor_vae_score") for value in row["factor_vae_score_seeds"]]
        score, *others = (mean(row, figure) for figure in figures)
        score += f" ({', '.join(each)})" if several else ""
        assert f"| {row['label']} | {' | '.join([score, *others])} |" in readme
    for row in [*whole, *compared, *fresh]:
        lines = ["mean", *row["seeds"]] if len(row["seeds"]) > 1 else row["seeds"]
        for line in lines:
            values = [
                mean(row, figure) if line is lines[0] else short(row[f"{figure}_seeds"][row["seeds"].index(line)], figure)
                for figure in figures
            ]
            assert f"| {row['label'] if line is lines[0] else ''} | {line} | {' | '.join(values)} |" in page
