// Arrow keys along the checkpoint tree, and the chosen node or the head in view.
const scroller = document.getElementById("tree-scroll");

function marks() {
  return [...scroller.querySelectorAll(".mark")];
}

function bringIntoView() {
  const mark = scroller.querySelector(".mark.chosen") ?? scroller.querySelector(".mark.head");
  if (!mark) return;
  scroller.scrollLeft = Number(mark.dataset.x) - scroller.clientWidth * 0.7;
  scroller.scrollTop = Number(mark.dataset.y) - scroller.clientHeight / 2;
}

// The nearest mark in a direction: what lies straight ahead counts more than what lies aside.
function nearest(from, dx, dy) {
  const x = Number(from.dataset.x), y = Number(from.dataset.y);
  let best = null, bestCost = Infinity;
  for (const mark of marks()) {
    const along = (mark.dataset.x - x) * dx + (mark.dataset.y - y) * dy;
    const aside = Math.abs((mark.dataset.x - x) * dy) + Math.abs((mark.dataset.y - y) * dx);
    const cost = along + 3 * aside;
    if (mark !== from && along > 0 && cost < bestCost) [best, bestCost] = [mark, cost];
  }
  return best;
}

const DIRECTIONS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

scroller.addEventListener("keydown", (event) => {
  const from = event.target.closest(".mark"), direction = DIRECTIONS[event.key];
  if (!from || !direction) return;
  const to = nearest(from, ...direction);
  if (to) to.focus();
  event.preventDefault();
});

let head = scroller.querySelector(".mark.head")?.id;
scroller.addEventListener("replaced", () => {
  const now = scroller.querySelector(".mark.head")?.id;
  if (now !== head && !scroller.contains(document.activeElement)) bringIntoView();
  head = now;
});
bringIntoView();
