'use strict';
const zoom = document.getElementById('zoom');
function setZoom() {
  document.documentElement.style.setProperty('--zoom', zoom.value);
  document.getElementById('zoomed').value = zoom.value + '×';
}
zoom.addEventListener('input', setZoom);
// as large as all panels of a detail fit beside each other
const row = document.querySelector('.row'), count = row.children.length;
const side = parseFloat(getComputedStyle(row.firstElementChild).getPropertyValue('--side'));
const fitting = [3, 2.5, 2, 1.5, 1].find(value => count * (side * value + 12) <= row.clientWidth + 12);
zoom.value = window.innerWidth > 640 && fitting ? fitting : 2;
setZoom();

const errors = document.getElementById('errors');
if (errors) {
  const set = () => document.body.classList.toggle('errors', errors.checked);
  errors.addEventListener('change', set);
  set();
}

for (const scene of document.querySelectorAll('.scene')) {
  const stage = scene.querySelector('.stage');
  const [part, left, right] = ['part', 'left', 'right'].map(name => scene.querySelector('select.' + name));
  const slider = stage.querySelector('input');
  const picture = panel => scene.querySelector(`img.plain[data-part="${part.value}"][data-panel="${panel.value}"]`);
  const nameOf = panel => panel.options[panel.selectedIndex].text;

  function place() {
    stage.style.setProperty('--at', slider.value + '%');
    const share = Math.round(slider.value);
    slider.setAttribute('aria-valuetext', `${share} % ${nameOf(left)}, ${100 - share} % ${nameOf(right)}`);
  }

  function show() {
    for (const [image, panel, tag] of [['over', left, 'left'], ['under', right, 'right']]) {
      const from = picture(panel), to = stage.querySelector('.' + image);
      to.src = from.src;
      to.alt = from.alt;
      to.classList.toggle('pixels', part.value !== 'whole' || from.getAttribute('width') < 384);
      stage.querySelector('.tag.' + tag).textContent = [nameOf(panel), from.dataset.note].filter(Boolean).join(' · ');
    }
    // a small picture is enlarged, but not beyond what fits
    const width = Math.max(picture(left).getAttribute('width'), 384);
    stage.style.maxWidth = part.value === 'whole' ? width + 'px' : '40rem';
    place();
  }

  slider.addEventListener('input', place);
  for (const choice of [part, left, right]) choice.addEventListener('change', show);
  for (const button of scene.querySelectorAll('.crop button')) {
    button.addEventListener('click', () => {
      const image = button.querySelector('img.plain');
      part.value = image.dataset.part;
      if (image.dataset.panel === left.value) left.value = right.value;
      right.value = image.dataset.panel;
      show();
      slider.focus({preventScroll: true});
      stage.scrollIntoView({block: 'nearest'});
    });
  }
  show();
}
