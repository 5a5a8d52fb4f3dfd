function frame(host, width, height, label) {
  host.replaceChildren();
  const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });
  host.append(svg);
  return svg;
}

function line(svg, x1, y1, x2, y2, kind) {
  svg.append(make('line', { x1, y1, x2, y2, class: kind }));
}

function label(svg, x, y, text, anchor = 'middle') {
  svg.append(make('text', { x, y, 'text-anchor': anchor }, text));
}

function short(number) {
  if (number >= 1e6) return `${+(number / 1e6).toPrecision(3)}M`;
  if (number >= 1e3) return `${+(number / 1e3).toPrecision(3)}k`;
  return `${number}`;
}

function niceStep(raw) {
  const power = 10 ** Math.floor(Math.log10(raw));
  return Math.max(1, [1, 2, 5, 10].find((factor) => factor * power >= raw) * power);
}

function niceSteps(most, wanted) {
  const step = niceStep(most / wanted);
  const steps = [];
  for (let value = 0; value <= most; value += step) steps.push(value);
  return steps;
}

// Round lengths between two, on a logarithmic axis: the coarsest steps that give three, or linear ones.
function lengthSteps(shortest, longest) {
  for (const factors of [[1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
    const steps = [];
    for (let power = 1; power < longest; power *= 10) {
      steps.push(...factors.map((factor) => factor * power).filter((nt) => nt >= shortest && nt <= longest));
    }
    if (steps.length > 2) return steps;
  }
  const step = niceStep((longest - shortest) / 6);
  const first = Math.ceil(shortest / step);
  return Array.from({ length: Math.floor(longest / step) - first + 1 }, (_, i) => (first + i) * step);
}

function lengthMarks(svg, shortest, longest, x, base) {
  let before = -Infinity;
  for (const nt of lengthSteps(shortest, longest)) {
    const place = x(nt);
    if (place - before < 44) continue;
    before = place;
    line(svg, place, base, place, base + 4, 'axis');
    label(svg, place, base + 18, short(nt));
  }
}

function chartWidth(host) {
  return Math.max(280, Math.min(host.clientWidth || 540, 1100));
}

(function histogram() {
  const host = by('histogram');
  if (!host) return;
  const bins = DATA.histogram.virus.length;
  const order = ['non-virus', 'uncertain', 'virus'];
  const totals = Array.from({ length: bins }, (_, i) => order.reduce((sum, name) => sum + DATA.histogram[name][i], 0));
  const most = Math.max(1, ...totals);
  const filled = totals.filter((total) => total > 0).sort((a, b) => a - b);
  by('log').checked = filled.length > 0 && most > 40 * filled[Math.floor(filled.length / 2)];

  function draw() {
    const log = by('log').checked;
    const [width, height, left, right, top, bottom] = [chartWidth(host), 250, 46, 6, 10, 38];
    const svg = frame(host, width, height, `Histogram of scores: ${totals.reduce((a, b) => a + b, 0)} scored records`);
    const scale = (n) => (log ? Math.log10(1 + n) / Math.log10(1 + most) : n / most);
    const y = (n) => height - bottom - scale(n) * (height - bottom - top);
    const x = (share) => left + share * (width - left - right);
    const marks = log ? [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7].filter((n) => n <= most) : niceSteps(most, 4);
    for (const mark of marks) {
      line(svg, left, y(mark), width - right, y(mark), mark ? 'rule' : 'axis');
      label(svg, left - 8, y(mark) + 4, short(mark), 'end');
    }
    for (const share of [0, 0.25, 0.5, 0.75, 1]) label(svg, x(share), height - 20, `${share}`);
    label(svg, x(0.5), height - 3, 'p_virus');
    if (typeof DATA.minScore === 'number') {
      line(svg, x(DATA.minScore), top, x(DATA.minScore), height - bottom, 'middle');
      label(svg, x(DATA.minScore) - 5, top + 8, `min_score ${DATA.minScore}`, 'end');
    }
    const gap = Math.min(1.5, (width - left - right) / bins / 6);
    totals.forEach((total, i) => {
      if (!total) return;
      const group = make('g');
      const full = height - bottom - y(total);
      let base = height - bottom;
      for (const name of order) {
        const part = full * (DATA.histogram[name][i] / total);
        base -= part;
        if (part) group.append(make('rect', { x: x(i / bins) + gap / 2, y: base, width: x(1 / bins) - left - gap, height: part, class: `fill-${name}` }));
      }
      const words = order.filter((name) => DATA.histogram[name][i]).map((name) => `${format(DATA.histogram[name][i])} ${name}`);
      if (DATA.histogram.uncertain[i] && i < bins / 2) words.push('(uncertain here: unlike anything in training)');
      hasTip(group, `p_virus ${(i / bins).toFixed(2)} to ${((i + 1) / bins).toFixed(2)}\n${words.join('\n')}`);
      svg.append(group);
    });
  }
  by('log').addEventListener('change', draw);
  window.addEventListener('resize', draw);
  draw();
})();

(function viralLengths() {
  const host = by('viral-lengths');
  if (!host) return;
  const counts = new Map();
  for (const [place, , call, count] of DATA.grid) if (call === 'virus') counts.set(place, (counts.get(place) || 0) + count);
  const places = [...counts.keys()];
  const [low, high] = [Math.min(...places), Math.max(...places) + 1];
  const most = Math.max(...counts.values());

  function draw() {
    const [width, height, left, right, top, bottom] = [chartWidth(host), 230, 46, 10, 10, 38];
    const svg = frame(host, width, height, 'Histogram of the lengths of viral records');
    const x = (place) => left + ((place - low) / (high - low)) * (width - left - right);
    const y = (count) => height - bottom - (count / most) * (height - bottom - top);
    for (const mark of niceSteps(most, 4)) {
      line(svg, left, y(mark), width - right, y(mark), mark ? 'rule' : 'axis');
      label(svg, left - 8, y(mark) + 4, short(mark), 'end');
    }
    lengthMarks(svg, 10 ** (low / DATA.perDecade), 10 ** (high / DATA.perDecade), (nt) => x(DATA.perDecade * Math.log10(nt)), height - bottom);
    label(svg, (left + width - right) / 2, height - 3, 'length (nt)');
    for (const [place, count] of counts) {
      const bar = make('rect', { x: x(place) + 0.5, y: y(count), width: Math.max(1, x(place + 1) - x(place) - 1), height: y(0) - y(count), class: 'fill-virus' });
      hasTip(bar, `${short(Math.round(10 ** (place / DATA.perDecade)))} to ${short(Math.round(10 ** ((place + 1) / DATA.perDecade)))} nt\n${format(count)} viral`);
      svg.append(bar);
    }
  }
  window.addEventListener('resize', draw);
  draw();
})();

(function lengths() {
  const host = by('lengths');
  if (!host) return;
  const scored = DATA.grid.reduce((sum, cell) => sum + cell[3], 0);
  const rows = [...Array(COUNT).keys()].filter((i) => ROWS.p[i] >= 0 && DATA.calls[ROWS.call[i]]);
  const asPoints = rows.length === scored && scored <= 2500;
  const bins = DATA.histogram.virus.length;
  by('lengths-note').textContent = asPoints
    ? 'Each point is a record; short records carry less evidence.'
    : 'Fuller colour: more records; hue: the commonest call.';
  const edges = DATA.grid.map((cell) => cell[0]);
  const low = (edges.length ? edges.reduce((a, b) => Math.min(a, b)) : 32) / DATA.perDecade;
  const high = ((edges.length ? edges.reduce((a, b) => Math.max(a, b)) : 64) + 1) / DATA.perDecade;

  function draw() {
    const [width, height, left, right, top, bottom] = [chartWidth(host), 250, 40, 10, 10, 38];
    const svg = frame(host, width, height, `Length against score of ${scored} records`);
    const x = (exponent) => left + ((exponent - low) / (high - low)) * (width - left - right);
    const y = (share) => height - bottom - share * (height - bottom - top);
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      line(svg, left, y(share), width - right, y(share), share ? 'rule' : 'axis');
      label(svg, left - 8, y(share) + 4, `${share}`, 'end');
    }
    lengthMarks(svg, 10 ** low, 10 ** high, (nt) => x(Math.log10(nt)), height - bottom);
    label(svg, (left + width - right) / 2, height - 3, 'length (nt)');
    if (asPoints) drawPoints(svg, x, y);
    else drawCells(svg, x, y);
  }

  function drawPoints(svg, x, y) {
    for (const i of rows) {
      const spot = make('circle', { cx: x(Math.log10(Math.max(1, ROWS.length[i]))), cy: y(ROWS.p[i] / UNIT), r: rows.length > 600 ? 2.5 : 4, class: `spot fill-${CALL_CLASS[ROWS.call[i]]}`, 'fill-opacity': 0.75 });
      hasTip(spot, `${ROWS.id[i]}\n${format(ROWS.length[i])} nt, p_virus ${score(ROWS.p[i])}\n${callWords(i)}`);
      spot.addEventListener('click', () => window.dispatchEvent(new CustomEvent('pick', { detail: i })));
      svg.append(spot);
    }
  }

  function drawCells(svg, x, y) {
    const cells = new Map();
    for (const [length, share, call, count] of DATA.grid) {
      const key = `${length},${share}`;
      if (!cells.has(key)) cells.set(key, { length, share, total: 0, calls: {} });
      const cell = cells.get(key);
      cell.total += count;
      cell.calls[call] = count;
    }
    const most = [...cells.values()].reduce((a, cell) => Math.max(a, cell.total), 1);
    for (const { length, share, total, calls } of cells.values()) {
      const call = Object.keys(calls).reduce((a, b) => (calls[a] >= calls[b] ? a : b));
      const [x1, x2] = [x(length / DATA.perDecade), x((length + 1) / DATA.perDecade)];
      const [y1, y2] = [y((share + 1) / bins), y(share / bins)];
      const opacity = 0.18 + 0.82 * (most > 1 ? Math.log(total) / Math.log(most) : 1);
      const box = make('rect', { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: `fill-${call}`, 'fill-opacity': opacity.toFixed(3) });
      const words = Object.entries(calls).map(([name, count]) => `${format(count)} ${name}`);
      hasTip(box, `${format(Math.round(10 ** (length / DATA.perDecade)))} nt and more, p_virus about ${((share + 0.5) / bins).toFixed(2)}\n${words.join('\n')}`);
      svg.append(box);
    }
  }
  window.addEventListener('resize', draw);
  draw();
})();
