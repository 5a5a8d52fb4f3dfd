const TRACK_OF = new Map(DATA.tracks.map((track, number) => [track.row, number]));

(function track() {
  const host = by('track');
  if (!host) return;
  const choice = by('track-choice');
  let now = 0;
  DATA.tracks.forEach(({ row }, number) => {
    const sample = DATA.samples.length > 1 ? [sampleOf(row)] : [];
    const words = [ROWS.id[row], ...sample, `${format(ROWS.length[row])} nt`, CALL_TITLE[ROWS.call[row]]];
    choice.append(make('option', { value: number }, words.join(' · ')));
  });

  function windows({ windows: flat, frames }) {
    const list = [];
    let start = 0;
    for (let i = 0; i < flat.length; i += 4) {
      start += flat[i];
      list.push({ start, end: start + flat[i + 1], p: flat[i + 2], frame: frames[flat[i + 3]] });
    }
    return list;
  }

  function kindOf(p) {
    return p < 0 ? 'none' : p >= 500 ? 'virus' : 'non-virus';
  }

  function draw() {
    const one = DATA.tracks[now];
    const { row, joined } = one;
    const list = windows(one);
    const length = ROWS.length[row];
    const regions = DATA.regions[row] || [];
    const [width, height, left, right, top] = [chartWidth(host), 190, 40, 10, 10];
    const bottom = regions.length ? 52 : 40;
    const svg = frame(host, width, height, `Scores along ${ROWS.id[row]}`);
    const x = (nt) => left + (nt / length) * (width - left - right);
    const y = (share) => height - bottom - share * (height - bottom - top);
    for (const share of [0, 0.5, 1]) {
      line(svg, left, y(share), width - right, y(share), share === 0.5 ? 'middle' : share ? 'rule' : 'axis');
      label(svg, left - 8, y(share) + 4, `${share}`, 'end');
    }
    for (const nt of niceSteps(length, Math.max(3, width / 110))) label(svg, x(nt), height - 20, short(nt), x(nt) > width - 24 ? 'end' : 'middle');
    label(svg, (left + width - right) / 2, height - 3, 'position (nt)');
    for (const { start, end, p, frame: orf } of list) {
      const group = make('g');
      const wide = Math.max(1, x(end) - x(start) - 0.5);
      const high = p < 0 ? 0.02 : p / 1000;
      const kind = kindOf(p);
      group.append(make('rect', { x: x(start), y: y(high), width: wide, height: y(0) - y(high), class: `fill-${kind}`, 'fill-opacity': 0.28 }));
      group.append(make('rect', { x: x(start), y: y(high) - 1.25, width: wide, height: 2.5, class: `fill-${kind}` }));
      const where = `${format(start + 1)} to ${format(end)} nt`;
      hasTip(group, p < 0 ? `${where}\nnot scored` : `${where}\n${joined > 1 ? 'highest ' : ''}p_virus ${(p / 1000).toFixed(3)}${orf ? `, frame ${orf}` : ''}`);
      svg.append(group);
    }
    for (const [start, end] of regions) {
      const bar = make('rect', { x: x(start), y: height - bottom + 5, width: Math.max(2, x(end) - x(start)), height: 6, rx: 2, class: 'region' });
      hasTip(bar, `viral region ${format(start + 1)} to ${format(end)} nt`);
      svg.append(bar);
    }
    const call = `${callWords(row)}, p_virus ${score(ROWS.p[row])}`;
    const each = joined > 1 ? `Each bar is the highest of ${joined} chunks` : 'Each bar is a chunk';
    by('track-note').textContent = `${call}. ${each}: above the dashed line it speaks for a virus.${regions.length ? ' The line below marks viral regions.' : ''}`;
    by('track-before').disabled = now === 0;
    by('track-after').disabled = now === DATA.tracks.length - 1;
  }

  function show(number) {
    now = Math.max(0, Math.min(DATA.tracks.length - 1, number));
    choice.value = now;
    draw();
  }
  choice.addEventListener('change', () => show(Number(choice.value)));
  by('track-before').addEventListener('click', () => show(now - 1));
  by('track-after').addEventListener('click', () => show(now + 1));
  window.addEventListener('track', (event) => {
    show(TRACK_OF.get(event.detail));
    by('position').scrollIntoView({ block: 'nearest' });
    choice.focus({ preventScroll: true });
  });
  window.addEventListener('resize', draw);

  // The first to be seen: with the best region in a record of another kind, else the longest virus.
  const interest = ({ row, windows: flat }) => (DATA.regions[row] || DATA.calls[ROWS.call[row]] === 'virus' ? 1e9 : 0) + flat.length;
  const host_of = DATA.found.find(({ row }) => TRACK_OF.has(row));
  if (host_of) show(TRACK_OF.get(host_of.row));
  else show(DATA.tracks.reduce((best, one, number) => (interest(one) > interest(DATA.tracks[best]) ? number : best), 0));
})();
