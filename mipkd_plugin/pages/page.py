"""The whole page: one HTML file that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template

from mipkd_plugin.inference.pictures import BICUBIC
from mipkd_plugin.pages import encode, parts
from mipkd_plugin.pages.curves import Curves, Run
from mipkd_plugin.pages.gains import Gains, gains_html
from mipkd_plugin.pages.scenes import Look, Scene
from mipkd_plugin.pages.table import Entry, table_html


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        title: Its title.
        facts: Name and value of each line at its head.
        entries: Rows of the table.
        compared: Labels of the weights files.
        scenes: The images to show.
        images: Number of images that the table is about.
        look: How they are shown.
        captions: What the numbers of the table are.
        runs: The trainings of the weights files.
        curves: Their curves.
        gains: The gains of the comparisons that they belong to.
        notes: What the reader should know of the images.
        made_by: Program and version.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    entries: Sequence[Entry]
    compared: Sequence[str]
    scenes: Sequence[Scene]
    images: int
    look: Look
    captions: Sequence[str] = ()
    runs: Sequence[Run] = ()
    curves: Sequence[Curves] = ()
    gains: Sequence[Gains] = ()
    notes: Sequence[str] = field(default_factory=list)
    made_by: str = ''


def render(page: Page) -> str:
    """Make the HTML.

    Args:
        page: What it shows.

    Returns:
        The text of the file.
    """
    folder = files('mipkd_plugin.pages')
    template, style, script = ((folder / f'page.{kind}').read_text('utf-8') for kind in ('html', 'css', 'js'))
    top = encode.common_top(page.scenes)
    shown = _first_two(page)
    has_errors = any(shot.error is not None for scene in page.scenes for shot in scene.shots)
    switch = '<label><input type="checkbox" id="errors"> Errors |SR − HR| of the details</label>' \
             f'{parts.color_scale(top)}'
    facts = ''.join(f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in page.facts)
    return Template(template).substitute(
        title=escape(page.title), style=style, script=script, facts=facts, table=table_html(page.entries),
        notes=_paragraphs([*page.captions, *page.notes]), guide=_guide(page, has_errors),
        errors=switch if has_errors else '',
        scenes=''.join(parts.scene_html(scene, place, shown, top) for place, scene in enumerate(page.scenes, 1)),
        curves=gains_html(page.gains) + parts.curves_html(page.curves, page.runs), footer=escape(page.made_by))


def _first_two(page: Page) -> tuple[int, int]:
    """What the slider starts with: the first two weights files, or bicubic and the only one."""
    labels = [shot.label for shot in page.scenes[0].shots]
    left, right = (page.compared if len(page.compared) > 1 else [BICUBIC, *page.compared])[:2]
    return labels.index(left), labels.index(right)


def _guide(page: Page, has_errors: bool) -> str:
    look, several = page.look, len(page.compared) > 1
    what = 'the weights files differ most from each other' if several else 'the network differs most from bicubic'
    lines = [f'Details are exact, pixel by pixel, and lie where {what} (difference in brightness times contrast). '
             'Click one to see it in the slider. Whole images are WebP of quality '
             f'{encode.QUALITY}, at most {look.largest} pixels wide or high.']
    if len(page.scenes) < page.images:
        lines.append(f'Shown are the {len(page.scenes)} of {page.images} images where {what}; the table is about all '
                     'of them.')
    if has_errors:
        lines.append('PSNR and SSIM of details are of all their pixels. Errors are |SR − HR|, mean of red, green '
                     'and blue, all on one scale.')
    return _paragraphs(lines)


def _paragraphs(lines: Sequence[str]) -> str:
    return ''.join(f'<p class="soft">{escape(line)}</p>' for line in lines)
