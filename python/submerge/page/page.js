"use strict";
// The page is complete without this: here are only conveniences.
(() => {
  const themes = [...document.querySelectorAll('input[name="theme"]')];
  try {
    const kept = localStorage.getItem("submerge-theme");
    themes.forEach((input) => {
      input.checked = kept ? input.id === kept : input.checked;
      input.addEventListener("change", () => localStorage.setItem("submerge-theme", input.id));
    });
  } catch { /* a page opened from a file may have no storage */ }

  const boxes = [...document.querySelectorAll(".shots input")];
  const shown = () => boxes.find((box) => box.checked);
  boxes.forEach((box) =>
    box.addEventListener("change", () => {
      boxes.forEach((other) => { if (other !== box) other.checked = false; });
    }));
  document.addEventListener("keydown", (event) => {
    const now = shown();
    if (!now) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") now.checked = false;
    else if (step) {
      const visible = boxes.filter((box) => box.closest(".row").offsetParent !== null);
      const next = visible[visible.indexOf(now) + step];
      if (next) { now.checked = false; next.checked = true; next.focus({ preventScroll: true }); }
      event.preventDefault();
    }
  });

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (entry.isIntersecting) {
        links.forEach((other) => other.removeAttribute("aria-current"));
        link.setAttribute("aria-current", "true");
      }
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  document.querySelectorAll("main section").forEach((section) => seen.observe(section));
})();
