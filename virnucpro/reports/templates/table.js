(function table() {
  const head = document.querySelector('#records thead tr');
  if (!head) return;
  const body = document.querySelector('#records tbody');
  const PAGE = 50;
  const has = (name) => ROWS[name].some((value) => value >= 0);
  const hints = Object.keys(ROWS.hint).length > 0;
  const columns = [
    { key: 'id', title: 'Id', text: true, value: (i) => ROWS.id[i] },
    { key: 'p', title: 'p_virus', value: (i) => ROWS.p[i] },
    { key: 'call', title: 'Call', text: true, value: (i) => (DATA.calls[callOf(i)] || DATA.statuses[ROWS.status[i]]) },
    has('ps') && { key: 'ps', title: 'p in sample', value: (i) => ROWS.ps[i] },
    has('fdr') && { key: 'fdr', title: 'FDR', value: (i) => ROWS.fdr[i] },
    DATA.samples.length > 1 && { key: 'sample', title: 'Sample', text: true, value: sampleOf },
    { key: 'length', title: 'Length (nt)', value: (i) => ROWS.length[i] },
    { key: 'chunks', title: 'Chunks', value: (i) => ROWS.chunks[i] || -1 },
    { key: 'supporting', title: 'For : against', value: (i) => (ROWS.scored[i] ? ROWS.supporting[i] : -1) },
    hints && { key: 'hint', title: 'Kind', text: true, value: (i) => ROWS.hint[i] || '' },
    TRACK_OF.size > 0 && { key: 'track', title: 'Position track', fixed: true },
    Object.keys(DATA.fasta).length > 0 && { key: 'fasta', title: 'Copy', fixed: true },
  ].filter(Boolean);
  const hosts = new Set(DATA.found.map(({ row }) => row));
  const lower = ROWS.id.map((id) => id.toLowerCase());
  let order = [...Array(COUNT).keys()];
  let sorted = { key: 'p', down: true };
  let page = 0;
  let picked = -1;

  for (const column of columns) {
    const cell = make('th', { scope: 'col', class: column.text || column.fixed ? '' : 'num' });
    if (column.fixed) {
      cell.append(make('span', { class: 'hidden' }, column.title));
    } else {
      const button = make('button', { type: 'button', 'data-sort': column.key }, column.title);
      button.addEventListener('click', () => sortBy(column));
      cell.append(button);
    }
    column.cell = cell;
    head.append(cell);
  }
  DATA.calls.forEach((name, number) => by('call').append(make('option', { value: number }, CALL_TITLE[number])));
  if (hosts.size) by('call').append(make('option', { value: 'region' }, 'with a viral region'));
  if (DATA.samples.length > 1) {
    DATA.samples.forEach((name, number) => by('sample').append(make('option', { value: number }, name)));
    by('sample-filter').hidden = false;
  }

  function sortBy(column) {
    const down = sorted.key === column.key ? !sorted.down : !column.text;
    sorted = { key: column.key, down };
    page = 0;
    refresh();
  }

  function select() {
    const words = by('search').value.trim().toLowerCase();
    const call = by('call').value;
    const sample = by('sample').value;
    const shortest = Number(by('shortest').value) || 0;
    order = [];
    for (let i = 0; i < COUNT; i += 1) {
      if (words && !lower[i].includes(words)) continue;
      if (call === 'region' ? !hosts.has(i) : call !== '' && callOf(i) !== Number(call)) continue;
      if (sample !== '' && ROWS.sample[i] !== Number(sample)) continue;
      if (ROWS.length[i] >= shortest) order.push(i);
    }
  }

  function arrange() {
    const column = columns.find((one) => one.key === sorted.key);
    const sign = sorted.down ? -1 : 1;
    // Rows come by falling score: where the sort says nothing, that order stays.
    if (column.text) {
      const compare = new Intl.Collator('en', { numeric: true }).compare;
      order.sort((a, b) => sign * compare(column.value(a), column.value(b)) || a - b);
    } else {
      const missing = (value) => (value < 0 ? 1 : 0);
      order.sort((a, b) => {
        const [left, right] = [column.value(a), column.value(b)];
        return missing(left) - missing(right) || sign * (left - right) || a - b;
      });
    }
    for (const one of columns) {
      if (one.fixed) continue;
      if (one === column) one.cell.setAttribute('aria-sort', sorted.down ? 'descending' : 'ascending');
      else one.cell.removeAttribute('aria-sort');
    }
  }

  function cellOf(column, i) {
    if (column.key === 'id') return make('td', { class: 'id', title: ROWS.id[i] }, ROWS.id[i]);
    if (column.key === 'length') return make('td', { class: 'num' }, format(ROWS.length[i]));
    if (!column.text && !column.fixed && column.value(i) < 0) return make('td', { class: 'num dim' }, NONE);
    if (column.key === 'chunks') return make('td', { class: 'num' }, `${format(ROWS.scored[i])} of ${format(ROWS.chunks[i])}`);
    if (column.key === 'supporting') return make('td', { class: 'num' }, `${format(ROWS.supporting[i])} : ${format(ROWS.opposing[i])}`);
    if (column.key === 'fdr') return make('td', { class: 'num' }, percent(ROWS.fdr[i]));
    if (column.key === 'ps') return make('td', { class: 'num' }, score(ROWS.ps[i]));
    if (column.key === 'fasta') {
      const cell = make('td', { class: 'word' });
      if (DATA.fasta[i]) {
        const button = make('button', { type: 'button', class: 'link', 'aria-label': `Copy the FASTA of ${ROWS.id[i]}` }, 'copy');
        button.addEventListener('click', () => copy(button, DATA.fasta[i]));
        cell.append(button);
      }
      return cell;
    }
    if (column.key === 'p') {
      const cell = make('td', { class: 'num' }, score(ROWS.p[i]));
      const meter = make('span', { class: 'meter', 'aria-hidden': 'true' });
      const bar = make('i', { class: `key-${CALL_CLASS[callOf(i)]}` });
      bar.style.width = `${(100 * ROWS.p[i]) / UNIT}%`;
      meter.append(bar);
      cell.append(meter);
      return cell;
    }
    if (column.key === 'call') {
      const title = isTakenBack(i) ? 'virus, but above the limit that the slider is at' : callWords(i);
      const cell = make('td', { class: 'word', title });
      cell.append(make('i', { class: `key key-${CALL_CLASS[callOf(i)]}` }), column.value(i));
      return cell;
    }
    if (column.key === 'track') {
      const cell = make('td');
      if (TRACK_OF.has(i)) {
        const button = make('button', { type: 'button', class: 'link', 'aria-label': `Position track of ${ROWS.id[i]}` }, 'track');
        button.addEventListener('click', () => pick(i));
        cell.append(button);
      }
      return cell;
    }
    return make('td', { class: 'cut', title: column.value(i) }, column.value(i));
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(order.length / PAGE));
    page = Math.max(0, Math.min(page, pages - 1));
    body.replaceChildren(...order.slice(page * PAGE, (page + 1) * PAGE).map((i) => {
      const row = make('tr', i === picked ? { class: 'picked' } : {});
      row.append(...columns.map((column) => cellOf(column, i)));
      return row;
    }));
    by('hint').hidden = body.parentNode.scrollWidth <= body.parentNode.parentNode.clientWidth;
    by('page').textContent = `page ${format(page + 1)} of ${format(pages)}`;
    by('first').disabled = by('before').disabled = page === 0;
    by('last').disabled = by('after').disabled = page === pages - 1;
    by('found').textContent = order.length === COUNT ? `${format(COUNT)} ${COUNT === 1 ? 'record' : 'records'}` : `${format(order.length)} of ${format(COUNT)} records`;
  }

  function refresh() {
    select();
    arrange();
    draw();
  }

  function pick(i) {
    picked = i;
    if (TRACK_OF.has(i)) window.dispatchEvent(new CustomEvent('track', { detail: i }));
    draw();
  }

  function turn(to) {
    page = to;
    draw();
  }

  function filter() {
    page = 0;
    refresh();
  }

  function save() {
    const names = ['id', 'sample', 'length', 'chunks', 'p_virus', 'p_sample', 'fdr', 'call', 'status'];
    const share = (value) => (value < 0 ? '' : value / UNIT);
    const lines = order.map((i) => [ROWS.id[i], sampleOf(i), ROWS.length[i], ROWS.chunks[i], share(ROWS.p[i]), share(ROWS.ps[i]), share(ROWS.fdr[i]), DATA.calls[callOf(i)], DATA.statuses[ROWS.status[i]]].join('\t'));
    const link = make('a', { download: 'virnucpro_rows.tsv' });
    link.href = URL.createObjectURL(new Blob([`${[names.join('\t'), ...lines].join('\n')}\n`], { type: 'text/tab-separated-values' }));
    link.click();
    URL.revokeObjectURL(link.href);
  }

  let waiting = 0;
  by('search').addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 80);
  });
  by('shortest').addEventListener('input', filter);
  for (const name of ['call', 'sample']) by(name).addEventListener('change', filter);
  by('filters').addEventListener('submit', (event) => event.preventDefault());
  by('filters').addEventListener('reset', () => setTimeout(filter, 0));
  by('first').addEventListener('click', () => turn(0));
  by('before').addEventListener('click', () => turn(page - 1));
  by('after').addEventListener('click', () => turn(page + 1));
  by('last').addEventListener('click', () => turn(Infinity));
  by('save').addEventListener('click', save);
  for (const button of document.querySelectorAll('[data-sample]')) {
    button.addEventListener('click', () => {
      by('sample').value = button.dataset.sample;
      filter();
      by('table').focus();
    });
  }
  window.addEventListener('limit', filter);
  window.addEventListener('resize', draw);
  window.addEventListener('pick', (event) => {
    by('filters').reset();
    by('search').value = ROWS.id[event.detail];
    filter();
    pick(event.detail);
  });
  refresh();
})();
