"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes ?? {}))
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value != null) made.setAttribute(key, value);
    made.append(...children.filter((child) => child != null));
    return made;
  };
  const page = crypto.randomUUID();
  let state = null, project = null;
  // What was asked while a slider moved is of no use when something was kept meanwhile.
  let asking = false, waiting = null, turn = 0;

  // -- speaking to the server -----------------------------------------------------------------
  const trouble = (words) => { $("trouble").textContent = words ?? ""; $("trouble").hidden = !words; };
  const ask = async (path, given) => {
    const how = given === undefined ? {} : { method: "POST", body: JSON.stringify(given),
      headers: { "content-type": "application/json" } };
    let answer;
    try { answer = await fetch(path, how); } catch { throw new Error("the studio does not answer; is it still running?"); }
    if (answer.status === 401) throw new Error("the studio was started anew: open the address that it printed");
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.hint ? `${found.error}\nhint: ${found.hint}` : found.error);
    return found;
  };
  const tried = (action) => async (...given) => {
    try { trouble(null); return await action(...given); } catch (error) { trouble(error.message); }
  };
  const here = () => `/api/projects/${project.id}`;
  const take = (found) => { waiting = null; turn += 1; project = { ...project, ...found }; show(); };

  // Changes wait for each other, so that each follows the step before it.
  let line = Promise.resolve();
  const inLine = (action) => (line = line.then(tried(action)));
  const change = (given, what) => (waiting = null, turn += 1, inLine(async () => {
    const found = await ask(`${here()}/change`, { ...given, what, after: project.step, by: page });
    if (found.stale) trouble("changed in another tab meanwhile: this is what it is now");
    take(found);
  }));
  // While a slider moves there is one question under way, and one that waits: the latest.
  const preview = async (given) => {
    waiting = given;
    if (asking) return; // the loop below takes it up
    asking = true;
    while (waiting) {
      const next = waiting, now = turn;
      waiting = null;
      try {
        const found = await ask(`${here()}/change`, { ...next, keep: false });
        if (now !== turn) continue;
        project = { ...project, plan: found.plan, error: found.error, yaml: found.yaml };
        showPlan(); showRecipe();
      } catch (error) { trouble(error.message); }
    }
    asking = false;
  };

  // -- what is shown --------------------------------------------------------------------------
  const models = () => Object.entries(project.recipe.models ?? {}).map(([name, source]) =>
    ({ name, path: typeof source === "string" ? source : source.path }));
  const show = () => {
    showProjects(); showModels(); showPlan(); showRecipe(); showSliders(); showSettings(); showTries();
  };
  const showProjects = () => {
    $("project").replaceChildren(...state.projects.map((one) =>
      make("option", { value: one.id, selected: one.id === project.id }, one.name)));
    $("undo").disabled = !project.undo; $("redo").disabled = !project.redo;
    $("undo").title = project.undo ? `undo: ${project.undo} (Ctrl+Z)` : "";
    $("redo").title = project.redo ? `redo: ${project.redo} (Ctrl+Shift+Z)` : "";
  };
  const showModels = () => {
    const found = models();
    $("models").replaceChildren(...found.map((model, at) => {
      const parent = project.plan?.parents.find((one) => one.name === model.name);
      const more = make("pre", { hidden: true });
      const look = tried(async () => {
        more.hidden = !more.hidden;
        if (!more.hidden) more.textContent = (await ask(`/api/inspect?path=${encodeURIComponent(model.path)}`)).text;
      });
      return make("li", null,
        make("div", { class: "row" },
          make("span", { class: at === 1 ? "role b" : "role", "aria-hidden": true }, "ABCDEFGHIJ"[at] ?? "·"),
          make("span", { class: "name" }, model.name),
          make("button", { onclick: look }, "what is it?"),
          at ? make("button", { onclick: () => first(model.name), title: "make it the first" }, "first") : null,
          make("button", { onclick: () => without(model.name), "aria-label": `remove ${model.name}` }, "remove")),
        make("div", { class: "small" }, parent ? `${parent.variant}; ${parent.license}` : ""),
        make("div", { class: "small" }, model.path), more);
    }));
    $("adapters-part").hidden = !found.length;
    $("adapters").replaceChildren(...(project.recipe.adapters ?? []).map((given, at) => {
      const adapter = typeof given === "string" ? { path: given } : given;
      const set = (fields) => change({ fields: { adapters: project.recipe.adapters.map((one, i) =>
        i === at ? { ...adapter, ...fields } : one) } }, "adapter changed");
      const onto = make("select", { "aria-label": "onto", onchange: (e) => set({ onto: e.target.value || undefined }) },
        make("option", { value: "" }, "the result"),
        ...found.map((m) => make("option", { selected: adapter.onto === m.name }, m.name)));
      const scale = make("input", { type: "number", step: 0.05, value: adapter.scale ?? 1, "aria-label": "scale",
        onchange: (e) => set({ scale: Number(e.target.value) }) });
      return make("li", { class: "row" }, make("span", { class: "name" }, adapter.path.split("/").pop()),
        make("label", null, "onto ", onto), make("label", null, "scale ", scale),
        make("button", { onclick: () => change({ fields: { adapters: remaining(project.recipe.adapters, at) } },
          "adapter removed") }, "remove"));
    }));
  };
  const remaining = (list, at) => { const rest = list.filter((_, i) => i !== at); return rest.length ? rest : null; };
  const showPlan = () => {
    const plan = project.plan;
    $("empty").hidden = models().length > 1 || Boolean(project.error);
    $("error").hidden = !project.error; $("error").textContent = project.error ?? "";
    $("plan").hidden = !plan; $("save").disabled = !plan;
    if (!plan) return;
    $("formulas").replaceChildren(...plan.formulas.flatMap((one) => [
      make("p", { class: "formula" }, `result = ${one.formula}`),
      plan.formulas.length > 1 ? make("p", { class: "where" }, one.where) : null].filter(Boolean)));
    $("facts").replaceChildren(...Object.entries(plan.facts).flatMap(([name, said]) =>
      [make("dt", null, name), make("dd", null, said)]));
    $("notes").replaceChildren(...[...plan.notes, ...plan.unused].map((note) => make("li", null, note)));
  };
  const showRecipe = () => {
    if (document.activeElement !== $("recipe")) $("recipe").value = project.yaml ?? "";
    $("export").href = `data:application/yaml;charset=utf-8,${encodeURIComponent(project.yaml ?? "")}`;
  };
  const everywhere = () => {
    const top = project.recipe.alpha ?? project.recipe.method?.linear?.alpha;
    return typeof top === "number" ? top : null;
  };
  const showSliders = () => {
    const found = project.plan?.sliders ?? [], two = models().length === 2, many = models().length > 2;
    $("blocks").hidden = !two || (!found.length && !curve.busy()); $("weights").hidden = !many;
    if (two && found.length) {
      curve.show(found);
      const names = models().map((model) => model.name);
      $("legend").textContent = `A bar is the share of ${names[1]} (B); what is above it is ${names[0]} (A).`;
      if (document.activeElement !== $("everywhere")) $("everywhere").value = everywhere() ?? 0.5;
      $("everywhere-said").value = everywhere() === null ? "-" : everywhere().toFixed(2);
      if (!$("sliders").contains(document.activeElement)) showEach(found);
    }
    if (many) $("weight-rows").replaceChildren(...models().map(({ name }) => {
      const held = project.recipe.weight ?? project.recipe.method?.linear?.weight ?? {};
      const value = typeof held[name] === "number" ? held[name] : 1;
      return make("label", null, make("span", null, name), make("input", { type: "range", min: 0, max: 1, step: 0.01,
        value, onchange: (e) => change({ fields: { method: null, alpha: null, take: null,
          weight: { ...Object.fromEntries(models().map((m) => [m.name, held[m.name] ?? 1])), [name]: Number(e.target.value) } } },
        `weight of ${name}`) }), make("output", null, value.toFixed(2)));
    }));
  };
  const showEach = (found) => $("sliders").replaceChildren(...found.map((slider) => {
    const said = make("output", null, slider.share.toFixed(2));
    const read = (e) => ({ [slider.group]: Number(e.target.value) });
    return make("label", null, make("span", null, slider.group),
      make("input", { type: "range", min: 0, max: 1, step: 0.01, value: slider.share,
        oninput: (e) => { said.value = Number(e.target.value).toFixed(2); preview({ shares: read(e) }); },
        onchange: (e) => change({ shares: read(e) }, `${slider.group} moved`) }), said);
  }));
  const SETTINGS = ["folder", "name", "prompt", "seeds", "steps", "width", "height", "components", "x", "y"];
  const showSettings = () => {
    for (const name of SETTINGS)
      if (document.activeElement !== $(name)) $(name).value = project.settings[name] ?? $(name).defaultValue ?? "";
    $("folder").value ||= state.folder;
    const output = project.recipe.output ?? {};
    $("layout").value = output.layout ?? "same";
    $("dtype").value = typeof output.dtype === "string" ? output.dtype : "same";
    if (!$("dtype").value) { $("dtype").append(make("option", null, output.dtype)); $("dtype").value = output.dtype; }
    $("no-painter").hidden = state.painter.available; $("painting").hidden = !state.painter.available;
    $("no-painter").textContent = `Nothing to paint with: ${state.painter.missing.join(", ")} not installed. ${state.painter.hint}`;
    $("analyse").disabled = models().length < 2; $("paint").disabled = !project.plan;
  };
  const KINDS = { merge: "model", analysis: "comparison", images: "images", fetch: "download", grid: "grid" };
  const file = (one, name) => `/api/tries/${one.id}/files/${name.split("/").map(encodeURIComponent).join("/")}`;
  const showTries = () => {
    const tries = project.tries ?? [];
    const live = tries.filter((one) => ["queued", "running"].includes(one.state));
    $("running").hidden = !live.length;
    $("running").replaceChildren(...live.map((one) => make("div", { "data-try": one.id },
      make("div", { class: "row" }, make("span", { class: "name" }, `${KINDS[one.kind]}: ${one.state}`),
        make("span", { class: "small said" }, one.progress.said ?? ""),
        make("button", { onclick: tried(() => ask(`/api/tries/${one.id}/cancel`, {})) }, "cancel")),
      make("progress", { max: one.progress.total || 1, value: one.progress.done ?? 0, "aria-label": "progress" }))));
    $("tries").replaceChildren(...tries.filter((one) => !live.includes(one)).map(showTry));
    const drawn = tries.find((one) => one.kind === "analysis" && one.state === "done");
    $("analysis").replaceChildren(...(drawn ? [make("img", { src: file(drawn, drawn.result.picture), loading: "lazy",
      alt: `maps of ${Object.values(drawn.result.models).join(" and ")}: cosine ${drawn.result.cosine?.toFixed(4)}` }),
      make("ul", { class: "notes" }, ...drawn.result.notes.map((note) => make("li", null, note)))] : []));
    const painted = tries.find((one) => one.kind === "images" && one.state === "done");
    $("images").replaceChildren(...(painted ? [shots(painted)] : []));
    const cells = tries.find((one) => one.kind === "grid" && one.state === "done");
    $("cells").replaceChildren(...(cells ? [table(cells)] : []));
  };
  const showTry = (one) => {
    const when = new Date((one.ended ?? one.made) * 1000).toLocaleString();
    const said = one.result.error ?? [one.result.path, one.result.size, one.result.run].filter(Boolean).join(", ");
    return make("li", null, make("div", { class: "row" },
      make("span", { class: "name" }, `${KINDS[one.kind]} ${one.id}`), make("span", { class: `state ${one.state}` }, one.state),
      make("button", { onclick: () => inLine(async () => take(await ask(`/api/tries/${one.id}/restore`, { by: page }))) }, "back to this"),
      make("button", { onclick: tried(() => begin({ try: one.id, name: `from try ${one.id}` })) }, "as a project"),
      make("button", { onclick: tried(() => ask(`/api/tries/${one.id}/forget`, {})) }, "forget")),
    make("div", { class: "small" }, when), said ? make("div", { class: "small", role: one.result.error ? "alert" : null }, said) : null,
    one.kind === "images" && one.state === "done" ? make("details", null, make("summary", null, one.result.prompt), shots(one)) : null);
  };
  const shots = (one) => {
    const columns = [...new Set(one.result.images.map((image) => image.model))];
    const rows = [...new Set(one.result.images.map((image) => image.seed))];
    const made = make("div", { class: "shots" }, ...rows.flatMap((seed) => columns.map((model) => {
      const image = one.result.images.find((found) => found.model === model && found.seed === seed);
      return make("figure", null, image ? make("img", { src: file(one, image.file), loading: "lazy",
        alt: `${model}, seed ${seed}: ${one.result.prompt}` }) : "-", make("figcaption", null, `${model}, seed ${seed}`));
    })));
    made.style.gridTemplateColumns = `repeat(${columns.length}, minmax(6rem, 1fr))`;
    return made;
  };

  const table = (one) => {
    const [across, columns] = one.result.axes.x ?? ["", [""]], [down, rows] = one.result.axes.y ?? ["", [""]];
    const made = make("div", { class: "shots" }, ...rows.flatMap((row, y) => columns.map((column, x) => {
      const cell = one.result.cells.find((found) => (found.at.x ?? 0) === x && (found.at.y ?? 0) === y);
      const words = [across && `${across} ${column}`, down && `${down} ${row}`].filter(Boolean).join(", ");
      return make("figure", null, make("img", { src: file(one, cell.file), loading: "lazy", alt: `${words}: ${one.result.prompt}` }),
        make("figcaption", null, words, " ", make("button", { onclick: () =>
          change({ recipe: one.result.recipes[cell.recipe] }, `recipe of ${words}`), "aria-label": `take the recipe of ${words}` }, "take")));
    })));
    made.style.gridTemplateColumns = `repeat(${columns.length}, minmax(6rem, 1fr))`;
    return made;
  };

  // -- what can be done -----------------------------------------------------------------------
  const curve = Curve($("curve"), {
    moving: (shares) => preview({ shares }),
    moved: (shares) => change({ shares }, Object.keys(shares).length > 1 ? "blocks drawn" : `${Object.keys(shares)[0]} moved`),
  });
  const first = (name) => {
    const rest = Object.entries(project.recipe.models).filter(([other]) => other !== name);
    change({ fields: { models: Object.fromEntries([[name, project.recipe.models[name]], ...rest]) } }, `${name} first`);
  };
  const without = (name) => {
    const rest = Object.fromEntries(Object.entries(project.recipe.models).filter(([other]) => other !== name));
    const gone = Object.keys(rest).length > 1 ? {} : { alpha: null, rules: null, method: null };
    const two = Object.keys(rest).length === 2 ? { weight: null, alpha: 0.5 } : {};
    change({ fields: { models: rest, ...gone, ...two } }, `${name} removed`);
  };
  const question = (title, value, more = "") => new Promise((resolve) => {
    $("ask-title").textContent = title; $("ask-more").textContent = more;
    $("ask-text").hidden = value === null; $("ask-text").value = value ?? "";
    $("ask").returnValue = "";
    $("ask").onclose = () => resolve($("ask").returnValue === "yes" ? ($("ask-text").value || "yes") : null);
    $("ask").showModal();
  });
  const begin = async (given) => { await open((await ask("/api/projects", given)).id); };
  const open = async (id) => {
    state = await ask("/api/state");
    const known = state.projects.some((one) => one.id === id) ? id : state.projects.at(-1).id;
    project = await ask(`/api/projects/${known}`);
    localStorage.setItem("submerge-studio-project", String(known));
    $("preset").replaceChildren(make("option", { value: "" }, "choose"), ...state.presets.map((name) => make("option", null, name)));
    show();
  };
  const browse = (title, chosen, kind) => {
    $("browser-title").textContent = title; $("typed").value = "";
    $("by-name").hidden = kind === "folder";
    const finish = (path) => { $("browser").close(); chosen(path); };
    const look = async (path) => {
      $("browser-error").hidden = true;
      try {
        const found = await ask(`/api/browse${path ? `?path=${encodeURIComponent(path)}` : ""}`);
        $("here").textContent = found.path ?? "the folders that the studio may use";
        $("choose").hidden = !found.path || kind !== "folder"; $("choose").onclick = () => finish(found.path);
        const up = found.path ? [{ name: "..", path: found.parent, kind: "folder" }] : [];
        const shown = [...up, ...found.entries].filter((one) => kind !== "folder" || one.kind !== "file");
        $("entries").replaceChildren(...shown.flatMap((one) => entry(one, kind, look, finish)));
        if (!shown.length) $("entries").append(make("li", null, "nothing here"));
        if (found.path) localStorage.setItem("submerge-studio-folder", found.path);
        $("entries").querySelector("button")?.focus();
      } catch (error) {
        $("browser-error").textContent = error.message; $("browser-error").hidden = false;
        if (path && $("entries").childElementCount === 0) look(null);
      }
    };
    $("entries").replaceChildren();
    $("take").onclick = () => { if ($("typed").value.trim()) finish($("typed").value.trim()); };
    $("browser").showModal(); look(localStorage.getItem("submerge-studio-folder"));
  };
  const entry = (one, kind, look, finish) => {
    const size = one.bytes ? `${(one.bytes / 1e9).toFixed(one.bytes < 1e8 ? 3 : 1)} GB` : one.kind === "file" ? "" : one.kind;
    const opens = one.kind === "folder" || kind === "folder";
    const button = make("button", { type: "button", onclick: () => opens ? look(one.path) : finish(one.path) },
      make("span", null, one.kind === "folder" ? `${one.name}/` : one.name), make("span", { class: "small" }, size));
    return [make("li", null, button)];
  };

  $("project").addEventListener("change", tried((e) => open(Number(e.target.value))));
  $("new").addEventListener("click", tried(async () => {
    const name = await question("name of the new project", `merge ${state.projects.length + 1}`);
    if (name) await begin({ name });
  }));
  $("duplicate").addEventListener("click", tried(() =>
    begin({ project: project.id, name: `${state.projects.find((one) => one.id === project.id).name}, copy` })));
  $("rename").addEventListener("click", tried(async () => {
    const name = await question("name of the project", project.name);
    if (name) { await ask(`${here()}/name`, { name }); await open(project.id); }
  }));
  $("delete").addEventListener("click", tried(async () => {
    const more = "Its steps and tries are forgotten; models that it saved stay.";
    if (await question(`delete ${project.name}?`, null, more)) { await ask(`${here()}/delete`, {}); await open(-1); }
  }));
  const go = (back) => inLine(async () => take(await ask(`${here()}/go`, { back, by: page })));
  $("undo").addEventListener("click", () => go(true));
  $("redo").addEventListener("click", () => go(false));
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    if (/^(TEXTAREA|INPUT)$/.test(event.target.tagName) && event.target.type !== "range") return;
    event.preventDefault(); go(!event.shiftKey);
  });
  $("add-model").addEventListener("click", () => browse("add a model", (path) => change({ add: path }, "model added"), "model"));
  $("add-adapter").addEventListener("click", () => browse("add an adapter", (path) =>
    change({ fields: { adapters: [...(project.recipe.adapters ?? []), { path, scale: 1 }] } }, "adapter added"), "model"));
  $("choose-folder").addEventListener("click", () => browse("save into", (path) => set({ folder: path }), "folder"));
  $("everywhere").addEventListener("input", (e) => {
    $("everywhere-said").value = Number(e.target.value).toFixed(2);
    preview({ everywhere: Number(e.target.value) });
  });
  $("everywhere").addEventListener("change", (e) => change({ everywhere: Number(e.target.value) }, "everywhere moved"));
  $("preset").addEventListener("change", (e) => {
    if (e.target.value) change({ preset: e.target.value }, `preset ${e.target.value}`);
    e.target.value = "";
  });
  $("apply").addEventListener("click", () => change({ text: $("recipe").value }, "recipe written"));
  $("copy").addEventListener("click", tried(async () => {
    await navigator.clipboard.writeText($("recipe").value); $("copy").textContent = "copied";
    setTimeout(() => { $("copy").textContent = "copy"; }, 1500);
  }));
  const set = (given) => inLine(async () => take(await ask(`${here()}/settings`, given)));
  for (const name of SETTINGS.slice(1)) $(name).addEventListener("change", (e) => set({ [name]: e.target.value }));
  for (const name of ["layout", "dtype"]) $(name).addEventListener("change", (e) => {
    const { [name]: _, ...rest } = project.recipe.output ?? {};
    const output = e.target.value === "same" ? rest : { ...rest, [name]: e.target.value };
    change({ fields: { output: Object.keys(output).length ? output : null } }, `${name} chosen`);
  });
  const start = (kind, asked = {}) => inLine(async () => {
    await ask(`${here()}/start`, { kind, asked }); project = await ask(here()); show();
  });
  $("save").addEventListener("click", () => start("merge", { overwrite: $("overwrite").checked }));
  $("analyse").addEventListener("click", () => start("analysis"));
  $("paint").addEventListener("click", () => start("images"));
  $("paint-grid").addEventListener("click", () => start("grid"));

  // -- colours, events, beginning -------------------------------------------------------------
  const theme = (name) => { document.documentElement.dataset.theme = name; $("theme").value = name; };
  theme(localStorage.getItem("submerge-theme-studio") ?? "");
  $("theme").addEventListener("change", (e) => { theme(e.target.value); localStorage.setItem("submerge-theme-studio", e.target.value); });
  const listen = () => {
    const events = new EventSource("/api/events");
    const again = tried(async () => { if (!curve.busy()) { project = await ask(here()); show(); } });
    events.addEventListener("open", () => { if (project) inLine(async () => open(project.id)); });
    events.addEventListener("error", () => trouble("the studio does not answer; is it still running?"));
    events.addEventListener("project", (event) => {
      const told = JSON.parse(event.data);
      if (told.id === project?.id && told.by !== page) again();
    });
    events.addEventListener("projects", tried(async () => { state = await ask("/api/state"); showProjects(); }));
    events.addEventListener("try", (event) => { if (JSON.parse(event.data).project === project?.id) again(); });
    events.addEventListener("trouble", (event) => trouble(JSON.parse(event.data).error));
    events.addEventListener("progress", (event) => {
      const told = JSON.parse(event.data), place = document.querySelector(`[data-try="${told.id}"]`);
      if (!place) { if (told.project === project?.id) again(); return; }
      Object.assign(place.querySelector("progress"), { max: told.total || 1, value: told.done });
      place.querySelector(".said").textContent = told.said;
      place.querySelector(".name").textContent = place.querySelector(".name").textContent.replace("queued", "running");
    });
  };
  tried(async () => { await open(Number(localStorage.getItem("submerge-studio-project"))); listen(); document.body.dataset.ready = "yes"; })();
})();
