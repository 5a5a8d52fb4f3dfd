// The limit that the slider is at: a place in DATA.limits, and the calls that it keeps.
const LIMIT = { place: Infinity };
const VIRUS = DATA.calls.indexOf('virus');
const isTakenBack = (i) => ROWS.call[i] === VIRUS && ROWS.limit[i] > LIMIT.place;
const callOf = (i) => (isTakenBack(i) ? DATA.calls.indexOf('uncertain') : ROWS.call[i]);

function copy(button, text) {
  const before = button.textContent;
  const say = (word) => {
    button.textContent = word;
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  const write = navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.reject();
  write.then(() => say('Copied'), () => say('Not allowed by this browser'));
}

(function limit() {
  const host = by('curve');
  if (!host) return;
  const slider = by('limit');
  const points = DATA.curve.map(([place, kept, lost]) => ({ place, kept, lost, share: lost / kept }));
  const last = points.length - 1;
  const words = (share) => `${+(100 * share).toPrecision(2)}%`;
  const units = (count) => (count === 1 ? DATA.unit : `${DATA.unit}s`);
  slider.max = last;
  slider.value = last;

  function draw() {
    const [width, height, left, right, top, bottom] = [chartWidth(host), 230, 46, 12, 10, 38];
    const now = points[slider.value];
    const svg = frame(host, width, height, `Viral calls kept against the share of them expected to be false: ${now.kept} of ${points[last].kept} kept`);
    const [most, high] = [points[last].kept, Math.max(...points.map((one) => one.share)) || 1];
    const x = (share) => left + (share / high) * (width - left - right);
    const y = (kept) => height - bottom - (kept / most) * (height - bottom - top);
    for (const mark of niceSteps(most, 4)) {
      line(svg, left, y(mark), width - right, y(mark), mark ? 'rule' : 'axis');
      label(svg, left - 8, y(mark) + 4, short(mark), 'end');
    }
    for (const part of [0, 0.25, 0.5, 0.75, 1]) label(svg, x(part * high), height - 20, words(part * high), part === 1 ? 'end' : 'middle');
    label(svg, (left + width - right) / 2, height - 3, 'expected to be false');
    svg.append(make('path', { class: 'line', d: points.map((one, i) => `${i ? 'L' : 'M'}${x(one.share).toFixed(1)} ${y(one.kept).toFixed(1)}`).join('') }));
    const mark = make('circle', { class: 'mark', cx: x(now.share), cy: y(now.kept), r: 5 });
    hasTip(mark, `${format(now.kept)} viral ${units(now.kept)} kept, ${words(now.share)} of them expected to be false`);
    svg.append(mark);
    const all = Number(slider.value) === last;
    by('limit-note').textContent = `${all ? 'All' : `At most ${words(DATA.limits[now.place])} false:`} ${format(now.kept)}${all ? '' : ` of ${format(points[last].kept)}`} viral ${units(points[all ? slider.value : last].kept)}${all ? '' : ' kept'}, ${now.lost < 1 ? 'fewer than 1' : `about ${format(Math.round(now.lost))}`} of them expected to be false.`;
    by('again').textContent = DATA.again.join(DATA.limits[now.place]);
    by('again-line').hidden = all;
  }
  slider.addEventListener('input', () => {
    LIMIT.place = Number(slider.value) === last ? Infinity : points[slider.value].place;
    draw();
    window.dispatchEvent(new Event('limit'));
  });
  window.addEventListener('resize', draw);
  draw();
})();

for (const button of document.querySelectorAll('[data-copy]')) {
  button.addEventListener('click', () => copy(button, by(button.dataset.copy).textContent));
}
for (const button of document.querySelectorAll('[data-region]')) {
  button.addEventListener('click', () => copy(button, DATA.regionFasta[button.dataset.region]));
}
for (const button of document.querySelectorAll('[data-row]')) {
  button.addEventListener('click', () => {
    const row = Number(button.dataset.row);
    window.dispatchEvent(new CustomEvent(TRACK_OF.has(row) ? 'track' : 'pick', { detail: row }));
  });
}
