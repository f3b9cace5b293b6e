"use strict";
// Two versions of an image under a divider, and the map of what differs.
for (const root of document.querySelectorAll(".images-view")) {
  const {axis, targets, images} = JSON.parse(root.querySelector("script").textContent);
  const ORIGINAL = "";
  const [image, target, left, right, frame, stage, leftImage, rightImage, rightHalf, divider, range, leftText, rightText, below, crop] =
    ["image", "target", "left", "right", "frame", "stage", "left-image", "right-image", "right-half", "divider",
      "position", "left-text", "right-text", "below", "crop"].map((name) => root.querySelector(`.${name}`));
  const views = [...root.querySelectorAll(".view button")];
  const zooms = [...root.querySelectorAll(".zoom button")];
  let view = "slider";
  let zoom = 1;

  const shown = () => images[image.value];
  const version = (name) => shown().versions[shown().chosen[target.value]?.[name]] ?? null;

  // A choice stays where the new image has it too.
  function refill(choice, names, first) {
    const before = choice.dataset.filled ? choice.value : first;
    choice.replaceChildren(...names.map((name) => new Option(name || "Original", name)));
    choice.value = names.includes(before) ? before : first;
    choice.dataset.filled = true;
  }

  function describe(where, name) {
    const title = document.createElement("b");
    title.textContent = name || "Original";
    const lines = name ? version(name).notes : [`${shown().width} × ${shown().height}`];
    where.replaceChildren(title, ...lines.map((text) => {
      const line = document.createElement("span");
      line.textContent = text;
      return line;
    }));
  }

  function place(percent) {
    const at = Math.min(100, Math.max(0, percent));
    rightHalf.style.clipPath = `inset(0 0 0 ${at}%)`;
    divider.style.left = `${at}%`;
    divider.setAttribute("aria-valuenow", Math.round(at));
    range.value = at;
  }

  function layout() {
    const {shownWidth, shownHeight} = shown();
    const fitting = Math.min(frame.clientWidth, shownWidth, innerHeight * 0.85 * shownWidth / shownHeight);
    const width = zoom === 1 ? fitting : shownWidth * zoom;
    stage.style.width = `${width}px`;
    stage.style.height = `${width * shownHeight / shownWidth}px`;
    stage.classList.toggle("large", zoom > 1);
    below.style.maxWidth = `${Math.max(fitting, Math.min(frame.clientWidth, 480))}px`;
  }

  function update() {
    const names = Object.keys(shown().chosen[target.value] || {});
    refill(left, [ORIGINAL, ...names], ORIGINAL);
    refill(right, names, names[0]);
    const ours = version(right.value);
    const other = left.value === ORIGINAL ? shown().original : version(left.value).decoded;
    const difference = view === "difference";
    leftImage.src = difference ? ours.difference : other;
    rightImage.src = ours.decoded;
    leftImage.alt = difference
      ? `Four times the difference of ${right.value} from the original, around grey`
      : `${shown().name}, ${left.value || "original"}`;
    rightImage.alt = `${shown().name}, ${right.value}`;
    rightHalf.hidden = divider.hidden = range.hidden = difference;
    left.disabled = difference;
    describe(leftText, difference ? ORIGINAL : left.value);
    describe(rightText, right.value);
    if (difference) {
      leftText.replaceChildren("Grey: no difference. Four times the difference, clipped at 0 and 255.");
    }
    crop.hidden = shownSize() === `${shown().width} × ${shown().height}`;
    crop.textContent = `The middle ${shownSize()} pixels are shown.`;
    layout();
  }

  function shownSize() {
    return `${shown().shownWidth} × ${shown().shownHeight}`;
  }

  function drag(event) {
    const box = stage.getBoundingClientRect();
    place((event.clientX - box.left) / box.width * 100);
  }

  function press(buttons, chosen) {
    for (const button of buttons) button.setAttribute("aria-pressed", button === chosen);
  }

  images.forEach((p, i) => image.add(new Option(p.name, i)));
  targets.forEach((t, i) => target.add(new Option(`about ${t} ${axis.unit}`, i)));
  target.value = Math.floor((targets.length - 1) / 2);
  for (const choice of [image, target, left, right]) choice.addEventListener("change", update);
  for (const button of views) {
    button.addEventListener("click", () => {
      view = button.dataset.view;
      press(views, button);
      update();
    });
  }
  for (const button of zooms) {
    button.addEventListener("click", () => {
      zoom = Number(button.dataset.zoom);
      press(zooms, button);
      layout();
      frame.scrollTo((stage.clientWidth - frame.clientWidth) / 2, (stage.clientHeight - frame.clientHeight) / 2);
    });
  }
  divider.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    divider.setPointerCapture(event.pointerId);
    divider.focus({preventScroll: true});
  });
  divider.addEventListener("pointermove", (event) => {
    if (divider.hasPointerCapture(event.pointerId)) drag(event);
  });
  stage.addEventListener("click", (event) => view === "slider" && event.target !== divider && drag(event));
  divider.addEventListener("keydown", (event) => {
    const now = Number(divider.getAttribute("aria-valuenow"));
    const to = {ArrowLeft: now - 2, ArrowDown: now - 2, ArrowRight: now + 2, ArrowUp: now + 2,
      PageDown: now - 10, PageUp: now + 10, Home: 0, End: 100}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    place(to);
  });
  range.addEventListener("input", () => place(Number(range.value)));
  new ResizeObserver(layout).observe(frame);
  update();
  place(50);
}
