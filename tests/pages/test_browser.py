"""The page of ``mipkd show`` in a browser: it needs nothing but its file, and the slider moves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import STUDENTS, tiny_options, write_image_pairs
from training import train, typed, write_options

from basicsr.archs import build_network

NASTY = 'a<b> & "ü".png'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


@pytest.fixture(scope='module')
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two tiny students, of which one has been trained, and their teacher."""
    folder = tmp_path_factory.mktemp('show')
    before = Path.cwd()
    os.chdir(folder)
    try:
        opt = tiny_options(write_image_pairs(folder))
        opt['val']['val_freq'] = 2
        assert train(write_options(opt, folder / 'x.yml')) == 0
    finally:
        os.chdir(before)
    for name in ('HR', 'LRbicx2'):
        (folder / name / '3.png').rename(folder / name / NASTY)
    torch.manual_seed(5)
    torch.save({'params': build_network(STUDENTS['EDSR']).state_dict()}, folder / 'other & <i>.pth')
    done = typed(
        'show', '-opt', 'x.yml', '--weights', 'experiments/tiny/models/net_g_latest.pth', 'other & <i>.pth',
        '--images', 'HR', '--lr', 'LRbicx2', '--crop-size', '20', '--most', '3', '--out', 'out/ü page.html',
        '--png', 'out/page.png', cwd=folder)
    assert done.returncode == 0, done.stderr
    assert 'teacher' in done.stdout
    assert (folder / 'out/page.png').stat().st_size > 10_000
    return folder / 'out/ü page.html'


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip('playwright.sync_api')
    if CHROMIUM is None:
        pytest.skip('there is no chromium and no google-chrome')
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end nothing may have been said on the console, or asked of a network."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(**settings: Any) -> Any:
        context = browser.new_context(**{'viewport': {'width': 1300, 'height': 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda message: said.append(message.text))
        page.on('pageerror', lambda error: said.append(str(error)))

        def decide(route: Any) -> None:
            if route.request.url.startswith(('file:', 'data:')):
                route.continue_()
            else:
                asked.append(route.request.url)
                route.abort()

        page.route('**/*', decide)
        page.on('request', lambda request: asked.append(request.url) if not request.url.startswith(
            ('file:///', 'data:image/')) else None)
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said
    assert not asked


def picture_of(page: Any) -> np.ndarray:
    """The slider's picture without labels and handle, and without its edge, which may lie between two pixels."""
    page.add_style_tag(content='.tag, .line { visibility: hidden } .stage { outline: none !important }')
    shot = page.locator('.stage').first.screenshot()
    return cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)[2:380, 2:380].astype(int)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).mean() < 0.2)


def test_slider_moves_by_keyboard_and_mouse(opened: Callable[..., Any]) -> None:
    page = opened()
    scene = page.locator('.scene').first
    scene.locator('select.left').select_option(label='HR')
    scene.locator('select.right').select_option(label='HR')
    only_hr = picture_of(page)
    scene.locator('select.right').select_option(label='LR')
    half = picture_of(page)
    assert not same(half, only_hr)
    assert same(half[:, :180], only_hr[:, :180]), 'the left half is HR'
    slider = scene.locator('.stage input')
    slider.focus()
    for _ in range(10):
        page.keyboard.press('ArrowRight')
    assert float(slider.input_value()) == 55
    assert not same(picture_of(page), half)
    page.keyboard.press('End')
    assert same(picture_of(page), only_hr), 'all of the left picture'
    box = slider.bounding_box()
    page.mouse.move(box['x'] + 0.9 * box['width'], box['y'] + 0.5 * box['height'])
    page.mouse.down()
    page.mouse.move(box['x'] + 0.25 * box['width'], box['y'] + 0.5 * box['height'], steps=4)
    page.mouse.up()
    assert abs(float(slider.input_value()) - 25) <= 1.5
    moved = picture_of(page)
    assert not same(moved, only_hr)
    assert not same(moved, half)
    page.keyboard.press('Home')
    only_lr = picture_of(page)
    assert not same(only_lr, moved)
    scene.locator('select.left').select_option(label='LR')
    assert same(picture_of(page), only_lr), 'all of the right picture'
    assert '0 % LR, 100 % LR' in slider.get_attribute('aria-valuetext')


def test_slider_moves_by_touch(opened: Callable[..., Any]) -> None:
    page = opened(has_touch=True, viewport={'width': 390, 'height': 800})
    slider = page.locator('.stage input').first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.touchscreen.tap(box['x'] + 0.8 * box['width'], box['y'] + 0.4 * box['height'])
    assert abs(float(slider.input_value()) - 80) <= 1.5


def test_click_on_a_detail_shows_it_in_the_slider(opened: Callable[..., Any]) -> None:
    page = opened()
    scene = page.locator('.scene').nth(1)
    scene.locator('.crop button').nth(3).press('Enter')
    assert scene.locator('select.part').input_value() == '0'
    assert scene.locator('select.right').input_value() == '3'
    same = scene.locator('.crop img.plain').nth(3).get_attribute('src')
    assert scene.locator('.stage .under').get_attribute('src') == same
    assert 'pixels' in scene.locator('.stage .under').get_attribute('class')


def test_details_are_zoomed_in_squares_and_show_errors(opened: Callable[..., Any]) -> None:
    page = opened()
    crop = page.locator('.crop img.plain').first
    page.locator('#zoom').press('Home')
    assert crop.evaluate('image => image.getBoundingClientRect().width') == 20
    page.locator('#zoom').press('End')
    assert crop.evaluate('image => image.getBoundingClientRect().width') == 160
    assert crop.evaluate('image => getComputedStyle(image).imageRendering') == 'pixelated'
    second = page.locator('.crop').nth(1)
    assert second.locator('img.plain').is_visible()
    assert not second.locator('img.error').is_visible()
    page.locator('#errors').check()
    assert second.locator('img.error').is_visible()
    assert not second.locator('img.plain').is_visible()
    assert page.locator('.crop').first.locator('img.plain').is_visible(), 'LR has no errors'


def test_all_can_be_read(opened: Callable[..., Any]) -> None:
    page = opened()
    page.evaluate('document.querySelectorAll("details").forEach(entry => entry.open = true)')
    page.wait_for_function('[...document.images].every(image => image.complete)')
    assert page.evaluate('[...document.images].filter(image => !image.naturalWidth || !image.alt).length') == 0
    unnamed = '[...document.querySelectorAll("select, input")].filter(entry => !entry.labels.length && ' \
              '!entry.ariaLabel).length'
    assert page.evaluate(unnamed) == 0
    assert page.locator('h3').all_inner_texts() == [f'{name} 48 × 48' for name in ('0.png', '1.png', '2.png', NASTY)
                                                    if f'{name} 48 × 48' in page.locator('h3').all_inner_texts()]
    assert page.locator('.scene').count() == 3
    assert page.locator('i').count() == 0, 'the name of a file is text'
    assert 'other & <i>' in page.locator('table').inner_text()
    table = page.locator('tbody tr').all_inner_texts()
    assert [row.split('\t')[0] for row in table] == ['bicubic', 'tiny', 'other & <i>', 'teacher']
    assert '\t4\t' in table[1], 'the iteration of net_g_latest.pth is in the log files'
    assert page.locator('svg.curves').count() > 3
    assert 'PSNR (dB) on val' in page.locator('svg.curves').first.text_content()
    assert 'found for other & <i>' in page.locator('section').last.inner_text()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_page_fits_a_telephone_and_both_color_schemes(opened: Callable[..., Any], scheme: str) -> None:
    page = opened(viewport={'width': 360, 'height': 700}, color_scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') <= 360
    ground, text = (page.evaluate(f'getComputedStyle(document.body).{name}') for name in ('backgroundColor', 'color'))
    bright, dark = (sum(map(int, color[4:-1].split(', '))) > 400 for color in (ground, text))
    assert (bright, dark) == ((True, False) if scheme == 'light' else (False, True))
