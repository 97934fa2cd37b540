"""Pages lead to each other: every link and anchor resolves, and the README leads to all of docs."""

from __future__ import annotations

from tests.support.pages import ROOT, anchors, links, pages

README_LINES = 200


def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading() -> None:
    wrong = []
    for page in pages():
        for file, anchor in links(page):
            target = (page.parent / file).resolve() if file else page
            if not target.exists():
                wrong.append(f"{page.relative_to(ROOT)} -> {file}")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                wrong.append(f"{page.relative_to(ROOT)} -> {file}#{anchor}")
    assert wrong == []


def test_the_readme_leads_to_every_page_of_the_documentation() -> None:
    readme = ROOT / "README.md"
    told = {(ROOT / file).resolve() for file, _ in links(readme) if file}
    missing = {page for page in (ROOT / "docs").glob("*.md") if page.resolve() not in told}
    assert sorted(page.name for page in missing) == []


def test_every_file_of_the_documentation_is_two_hops_from_the_readme_at_most() -> None:
    near = {ROOT / "README.md"}
    for _ in range(2):
        near |= {
            (page.parent / file).resolve()
            for page in near
            if page.suffix == ".md" and page.is_file()
            for file, _ in links(page)
            if file
        }
    files = {path for path in (ROOT / "docs").rglob("*") if path.is_file()}
    assert sorted(str(path.relative_to(ROOT)) for path in files - near) == []


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= README_LINES


def test_the_index_of_decisions_leads_to_each_of_them() -> None:
    told = {(ROOT / "docs" / file).resolve() for file, _ in links(ROOT / "docs" / "decisions.md")}
    assert sorted(p.name for p in (ROOT / "docs" / "adr").glob("*.md") if p not in told) == []
