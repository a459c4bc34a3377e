"""The parts of the page as HTML. Every text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mipkd_plugin.pages import encode
from mipkd_plugin.pages.curves import Curves, Run
from mipkd_plugin.pages.scenes import Scene, Shot, Values, number


def values_of(values: Values | None) -> str:
    """PSNR and SSIM in words; '' without them."""
    return '' if values is None else f'{number(values[0], 2)} dB, {number(values[1], 4)}'


def whole_values_of(shot: Shot) -> str:
    """What is known of a whole image in words; '' if nothing is."""
    niqe = '' if shot.niqe is None else f'NIQE {number(shot.niqe, 2)}'
    return ', '.join(filter(None, (values_of(shot.values), niqe)))


def scene_html(scene: Scene, place: int, shown: tuple[int, int], top: float) -> str:
    """One image: its details, the slider, the whole images, and the maps of errors.

    Args:
        scene: The image.
        place: Its number in the page.
        shown: Numbers of the two panels that the slider starts with.
        top: The error with the brightest color.

    Returns:
        HTML.
    """
    height, width = scene.size
    crops = [_crops(scene, part, top) for part in range(len(scene.boxes))]
    wholes = ''.join(_figure('whole', shot, _plain(
        encode.compressed(shot.whole), shot, 'whole', panel, f'{scene.name}: {shot.label}', shot.note),
        _caption(shot.label, [whole_values_of(shot)])) for panel, shot in enumerate(scene.shots))
    maps = ''.join(_map(scene, shot, top) for shot in scene.shots if shot.error is not None)
    errors = f'<details open><summary>Errors of the whole image</summary>{color_scale(top)}' \
             f'<div class="row">{maps}</div></details>' if maps else ''
    return f'''<article class="scene" id="image{place}" aria-labelledby="name{place}">
<h3 id="name{place}">{escape(scene.name)} <span class="soft">{width} × {height}</span></h3>
{''.join(crops)}
<h4>Compare two</h4>
{_viewer(scene, shown)}
<details><summary>Whole images</summary><div class="row">{wholes}</div></details>
{errors}
</article>
'''


def _crops(scene: Scene, part: int, top: float) -> str:
    box = scene.boxes[part]
    figures = []
    for panel, shot in enumerate(scene.shots):
        values = shot.crop_values[part] if shot.crop_values else None
        name = f'{scene.name}, detail {part + 1}: {shot.label}'
        note = f'{number(values[0], 2)} dB' if values else ''
        images = _plain(encode.exact(shot.crops[part]), shot, str(part), panel, name, note, 'pixels')
        if shot.crop_errors:
            error = encode.colored(shot.crop_errors[part], top)
            images = f'<img class="error pixels" src="{error}" alt="{escape(name)}, errors">{images}'
        button = f'<button type="button" title="Show in the slider" aria-label="Show {escape(name)} in the slider">' \
                 f'{images}</button>'
        lines = [f'{what} {said}' for what, said in (('detail', values_of(values)), ('image', whole_values_of(shot)))
                 if said]
        figures.append(f'<figure class="crop" style="--side:{box.width}">{button}{_caption(shot.label, lines)}'
                       '</figure>')
    place = f'{box.width} × {box.height} pixels at {box.left}, {box.top}'
    return f'<h4>Detail {part + 1} <span class="soft">{place}</span></h4><div class="row">{"".join(figures)}</div>'


def _plain(uri: str, shot: Shot, part: str, panel: int, name: str, note: str, kind: str = '') -> str:
    image = shot.whole if part == 'whole' else shot.crops[int(part)]
    return f'<img class="plain {kind}" data-part="{part}" data-panel="{panel}" data-note="{note}" ' \
           f'width="{image.shape[1]}" height="{image.shape[0]}" src="{uri}" alt="{escape(name)}">'


def _figure(kind: str, shot: Shot, image: str, caption: str) -> str:
    return f'<figure class="{kind}">{image}{caption}</figure>'


def _caption(label: str, lines: Sequence[str]) -> str:
    return f'<figcaption><b>{escape(label)}</b>{"<br>".join(line for line in lines if line)}</figcaption>'


def _map(scene: Scene, shot: Shot, top: float) -> str:
    if shot.error is None:
        return ''
    mean = f'mean {number(float(shot.error.mean()), 2)}'
    image = f'<img src="{encode.colored(shot.error, top)}" ' \
            f'alt="{escape(f"{scene.name}: errors of {shot.label}, {mean} of 255")}">'
    return _figure('map', shot, image, _caption(shot.label, [mean]))


def color_scale(top: float) -> str:
    """The color bar of all maps of errors."""
    return f'<div class="scale"><span>0</span><img src="{encode.color_bar()}" alt="Color bar: dark is ' \
           f'no error, bright is {top:g} of 255 or more"><span>{top:g} and more, of 255</span></div>'


def _viewer(scene: Scene, shown: tuple[int, int]) -> str:
    parts = ''.join(f'<option value="{part}">detail {part + 1}</option>' for part in range(len(scene.boxes)))
    sides = [''.join(f'<option value="{panel}"{" selected" * (panel == chosen)}>{escape(shot.label)}</option>'
                     for panel, shot in enumerate(scene.shots)) for chosen in shown]
    return f'''<div class="choices">
<label>Left <select class="left">{sides[0]}</select></label>
<label>Right <select class="right">{sides[1]}</select></label>
<label>Part <select class="part"><option value="whole">whole image</option>{parts}</select></label>
</div>
<div class="stage"><img class="under" alt=""><img class="over" alt=""><span class="tag left"></span>
<span class="tag right"></span><span class="line"></span>
<input type="range" min="0" max="100" step="0.5" value="50" aria-label="{escape(scene.name)}: left or right picture">
</div>'''


def curves_html(curves: Sequence[Curves], runs: Sequence[Run]) -> str:
    """The curves of all runs, and which files have none."""
    without = [run.label for run in runs if run.folder is None and not run.problem]
    lack = f'<p>No log files of a training were found for {escape(", ".join(without))}: they are looked for as ' \
           'train_*.log in the folder above the one that holds the weights.</p>' if without else ''
    lack += ''.join(f'<p>The log files of {escape(run.label)} cannot be read: {escape(run.problem)}</p>'
                    for run in runs if run.problem)
    if not curves and not lack:
        return ''
    folders = ''.join(f'<div><dt>{escape(run.label)}</dt><dd>{escape(str(run.folder))}</dd></div>'
                      for run in runs if run.folder is not None)
    figures = ''.join(f'<figure>{figure.svg}</figure>' for figure in curves)
    note = '<p class="soft">A ring marks the weights shown here. Where there are many points, means of neighbors are ' \
           'drawn.</p>' if curves else ''
    return f'''<section aria-labelledby="curves">
<h2 id="curves">Curves of the trainings</h2>
<dl>{folders}</dl>
{lack}{note}
<div class="figures">{figures}</div>
</section>'''

