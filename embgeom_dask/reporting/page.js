"use strict"
// The page of a report: figures are drawn where one looks, tables sort, a field finds neighbors. Whatever comes from
// a result is put in place as text, never as HTML.
;(() => {
  const unpacked = new Map()
  const views = new Map() // of each place of a figure, once it is drawn
  const drawing = new Map() // of each place, what ends when it is drawn
  const KINDS = {float64: Float64Array, float32: Float32Array, int32: Int32Array}

  function bytes_of(base64) {
    const text = atob(base64)
    const bytes = new Uint8Array(text.length)
    for (let place = 0; place < text.length; place++) bytes[place] = text.charCodeAt(place)
    return bytes
  }

  function revive(key, value) {
    if (!value || value.planes === undefined) return value
    const planes = bytes_of(value.planes) // the first bytes of all numbers, then the second ones, and so on
    const size = KINDS[value.kind].BYTES_PER_ELEMENT
    const count = planes.length / size
    const bytes = new Uint8Array(planes.length)
    for (let plane = 0; plane < size; plane++) {
      for (let place = 0; place < count; place++) bytes[place * size + plane] = planes[plane * count + place]
    }
    return new KINDS[value.kind](bytes.buffer)
  }

  function unpack(id) {
    if (!unpacked.has(id)) {
      const packed = bytes_of(document.getElementById(id).textContent)
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))
      unpacked.set(id, new Response(stream).text().then(text => JSON.parse(text, revive)))
    }
    return unpacked.get(id)
  }

  // ---- figures

  async function draw_now(place) {
    const item = JSON.parse(document.getElementById(place.dataset.plot).textContent)
    const view = await Bokeh.embed.embed_item(item, place)
    const figure = [...view][0].model
    views.set(place, figure)
    if (place.dataset.filled) {
      const source = figure.renderers[0].data_source
      source.data = await unpack(place.dataset.filled)
    }
    show_chosen(place)
    place.dataset.drawn = "yes"
  }

  function draw(place) {
    if (!drawing.has(place)) drawing.set(place, draw_now(place))
    return drawing.get(place)
  }

  const places = [...document.querySelectorAll(".drawing")]
  const seen = new IntersectionObserver(
    entries => entries.forEach(entry => entry.isIntersecting && draw(entry.target)), {rootMargin: "300px"})
  places.forEach(place => seen.observe(place))
  addEventListener("beforeprint", () => places.forEach(draw))

  // ---- legends

  function show_chosen(place) {
    const section = place.closest("section")
    const hidden = [...section.querySelectorAll(".legend [aria-pressed=false]")].map(each => each.dataset.name)
    for (const renderer of views.get(place).renderers) {
      const own = name => renderer.name === name || String(renderer.name).startsWith(name + ", radius ")
      renderer.visible = !hidden.some(own)
    }
  }

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false")
      for (const place of button.closest("section").querySelectorAll(".drawing")) {
        if (views.has(place)) show_chosen(place)
      }
    })
  }

  // ---- tables

  function sorted_by(cell) {
    return cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort)
  }

  function compare(one, other) {
    if (typeof one === "number" && typeof other === "number") return one - other
    return one < other ? -1 : one > other ? 1 : 0
  }

  function sort(table, column, down) {
    const body = table.tBodies[0]
    const rows = [...body.rows].map(row => [sorted_by(row.cells[column]), row])
    const empty = ([value]) => value === "" // a cell without a number is last, whichever way
    rows.sort((a, b) => empty(a) - empty(b) || (down ? -1 : 1) * compare(a[0], b[0]))
    body.append(...rows.map(([, row]) => row))
    ;[...table.tHead.rows[0].cells].forEach((cell, place) => {
      if (place === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending")
      else cell.removeAttribute("aria-sort")
    })
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    ;[...table.tHead.rows[0].cells].forEach((cell, column) => {
      cell.querySelector("button").addEventListener("click", () => {
        const first = table.tBodies[0].rows[0]
        const numbers = first && first.cells[column].dataset.sort !== undefined
        const now = cell.getAttribute("aria-sort")
        sort(table, column, now === null ? numbers : now === "ascending")
      })
    })
  }

  // ---- neighbors of a token

  const search = document.getElementById("search")
  const MOST = 12 // tokens that are offered

  function element(name, properties, ...inside) {
    const made = Object.assign(document.createElement(name), properties)
    made.append(...inside)
    return made
  }

  function token(text) {
    return element("bdi", {className: "token"}, text)
  }

  function places_of(data, typed) {
    const low = typed.toLowerCase()
    const levels = [[], [], [], []]
    for (let place = 0; place < data.token.length; place++) {
      const piece = data.token[place]
      const text = data.text[place].trim()
      if (piece === typed || text === typed) levels[0].push(place)
      else if (String(data.id[place]) === typed) levels[1].push(place)
      else if (text.toLowerCase().startsWith(low)) levels[2].push(place)
      else if (levels[3].length < MOST && piece.toLowerCase().includes(low)) levels[3].push(place)
    }
    levels[2].sort((a, b) => data.text[a].length - data.text[b].length || a - b)
    return levels.flat().slice(0, MOST)
  }

  function show_neighbors(data, place, choose) {
    const names = new Map()
    data.other_id.forEach((id, at) => names.set(id, data.other_token[at]))
    const own = new Map()
    data.id.forEach((id, at) => own.set(id, at))
    if (data.same) data.id.forEach((id, at) => names.set(id, data.token[at]))
    const body = element("tbody")
    for (let rank = 0; rank < data.ranks; rank++) {
      const id = data.neighbor[place * data.ranks + rank]
      if (id < 0) break
      const distance = Number(data.distance[place * data.ranks + rank].toPrecision(6))
      const name = data.same && own.has(id)
        ? element("button", {type: "button", onclick: () => choose(own.get(id))}, token(names.get(id)))
        : token(names.get(id))
      body.append(element("tr", {},
        element("td", {className: "right"}, String(rank + 1)), element("td", {className: "right"}, String(distance)),
        element("td", {className: "right"}, String(id)), element("td", {}, name)))
    }
    const head = element("tr", {}, ...["rank", "distance", "id", "token"].map((name, at) =>
      element("th", {className: at < 3 ? "right" : "left"}, name)))
    const whose = element("p", {}, "The nearest to ", token(data.token[place]), `, id ${data.id[place]}:`)
    search.querySelector(".answer").replaceChildren(whose, element("table", {}, element("thead", {}, head), body))
  }

  async function find() {
    const typed = search.querySelector("input").value.trim()
    const chosen = search.querySelector("select").value
    const data = await unpack(chosen)
    if (typed !== search.querySelector("input").value.trim() || chosen !== search.querySelector("select").value) return
    const choose = place => {
      search.querySelector("input").value = data.text[place].trim() || data.token[place]
      show_neighbors(data, place, choose)
      show_matches(data, [place], choose)
    }
    const found = typed ? places_of(data, typed) : []
    show_matches(data, found, choose)
    if (found.length) show_neighbors(data, found[0], choose)
    else search.querySelector(".answer").replaceChildren(typed ? "No token of this result has that." : "")
  }

  function show_matches(data, found, choose) {
    const offered = found.length > 1 ? found.map(place =>
      element("button", {type: "button", onclick: () => choose(place)}, token(data.token[place]))) : []
    search.querySelector(".matches").replaceChildren(...offered)
  }

  if (search) {
    search.querySelector("input").addEventListener("input", find)
    search.querySelector("select").addEventListener("change", find)
  }

  // ---- the section that is read, in the table of contents

  const links = new Map([...document.querySelectorAll("nav a")].map(link => [link.hash.slice(1), link]))
  const read = new IntersectionObserver(entries => {
    for (const entry of entries) links.get(entry.target.id).classList.toggle("read", entry.isIntersecting)
  }, {rootMargin: "-30% 0px -60% 0px"})
  document.querySelectorAll("section").forEach(section => read.observe(section))

  // What tests of the page use: draw every figure, and wait until that is done.
  window.embgeom = {draw_all: () => Promise.all(places.map(draw)), figure: place => views.get(place)}
})()
