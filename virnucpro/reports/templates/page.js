const DATA = JSON.parse(document.getElementById('data').textContent);
const ROWS = DATA.rows;
const COUNT = ROWS.id.length;
const UNIT = 100000;
const CALL_CLASS = DATA.calls.map((name) => name || 'none');
const CALL_TITLE = DATA.calls.map((name) => name || 'not called');
const by = (id) => document.getElementById(id);
const format = (number) => number.toLocaleString('en-US');

// Text only ever enters the page through textContent: ids come from files of unknown origin.
function make(tag, attributes = {}, text = null) {
  const svg = ['svg', 'g', 'rect', 'line', 'text', 'circle', 'path', 'title'].includes(tag);
  const node = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function score(value) {
  if (value < 0) return '';
  if (value >= UNIT - 5) return '>0.9999';
  return value < 5 ? '<0.0001' : (value / UNIT).toFixed(4);
}

function percent(value) {
  if (value < 0) return '';
  const share = (100 * value) / UNIT;
  return share < 0.01 ? '<0.01%' : `${share.toFixed(share < 10 ? 2 : 1)}%`;
}

const NONE = '–';
const sampleOf = (i) => DATA.samples[ROWS.sample[i]];

// What the word alone does not say of a record.
function callWords(i) {
  if (DATA.calls[ROWS.call[i]] !== 'uncertain') return CALL_TITLE[ROWS.call[i]];
  return ROWS.p[i] < UNIT / 2 ? 'uncertain: unlike anything the model was trained on' : 'uncertain: short of what a virus must reach';
}

function showTip(event, text) {
  const tip = by('tip');
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const x = Math.min(event.clientX + 12, window.innerWidth - box.width - 8);
  const y = event.clientY + 16 + box.height > window.innerHeight ? event.clientY - box.height - 10 : event.clientY + 16;
  tip.style.left = `${Math.max(4, x)}px`;
  tip.style.top = `${y}px`;
}

function hasTip(node, text) {
  node.addEventListener('pointermove', (event) => showTip(event, text));
  node.addEventListener('pointerleave', () => { by('tip').hidden = true; });
}

(function theme() {
  const button = by('theme');
  const root = document.documentElement;
  const system = window.matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);
  const label = () => { button.textContent = isDark() ? 'Light' : 'Dark'; };
  button.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    label();
  });
  system.addEventListener('change', label);
  label();
})();
