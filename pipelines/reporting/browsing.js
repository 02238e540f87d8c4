// Filters the failures; without it all of them are shown.
(() => {
  const section = document.getElementById("failures"), form = section?.querySelector(".filters");
  if (!form) return;
  const cards = [...section.querySelectorAll(".failure")], selects = [...form.querySelectorAll("select")];
  const more = section.querySelector(".more"), none = section.querySelector(".none"), page = 24;
  let room = page;
  const fits = card => selects.every(select => !select.value ||
    card.dataset[select.name].split(" ").some(value => select.value.split(" ").includes(value)));
  const show = () => {
    const found = cards.filter(fits);
    for (const card of cards) card.hidden = true;
    for (const card of found.slice(0, room)) card.hidden = false;
    more.hidden = found.length <= room;
    none.hidden = found.length > 0;
    form.querySelector("output").textContent = `${Math.min(room, found.length)} of ${found.length} shown`;
  };
  const again = () => { room = page; show(); };
  form.addEventListener("change", again);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(again));
  more.addEventListener("click", () => { room += page; show(); });
  for (const button of section.querySelectorAll("button[data-kind]")) button.addEventListener("click", () => {
    for (const select of selects) select.value = button.dataset[select.name] ?? "";
    again();
    form.scrollIntoView({ block: "start" });
    selects[0].focus({ preventScroll: true });
  });
  form.hidden = false;
  show();
})();
