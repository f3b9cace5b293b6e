"use strict";
// Two versions of a picture under a divider, and the map of what differs.
(() => {
  const {targets, pictures} = JSON.parse(document.getElementById("picture-data").textContent);
  if (!pictures.length) return;
  const ORIGINAL = "";
  const [picture, target, left, right, frame, stage, leftImage, rightImage, rightHalf, divider, range, leftText, rightText, below] =
    ["picture", "target", "left", "right", "frame", "stage", "left-image", "right-image", "right-half", "divider",
      "position", "left-text", "right-text", "below"].map((id) => document.getElementById(id));
  const views = [...document.querySelectorAll("#view button")];
  const zooms = [...document.querySelectorAll("#zoom button")];
  let view = "slider";
  let zoom = 1;

  const shown = () => pictures[picture.value];
  const version = (codec) => {
    const key = shown().chosen[target.value]?.[codec];
    return key === undefined ? null : shown().coded[key];
  };

  // A choice stays where the new picture has it too.
  function refill(choice, codecs, first) {
    const before = choice.dataset.filled ? choice.value : first;
    choice.replaceChildren(...codecs.map((c) => new Option(c || "Original", c)));
    choice.value = codecs.includes(before) ? before : first;
    choice.dataset.filled = true;
  }

  function describe(where, codec) {
    const title = document.createElement("b");
    title.textContent = codec || "Original";
    const coded = codec && version(codec);
    const lines = coded
      ? [`${coded.setting === codec ? "" : coded.setting + ", "}${coded.bpp.toFixed(3)} bpp`, ...coded.figures]
      : [`${shown().width} × ${shown().height}`];
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
    const codecs = Object.keys(shown().chosen[target.value] || {});
    refill(left, [ORIGINAL, ...codecs], ORIGINAL);
    refill(right, codecs, codecs[0]);
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
    const crop = document.getElementById("crop");
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

  pictures.forEach((p, i) => picture.add(new Option(p.name, i)));
  targets.forEach((t, i) => target.add(new Option(`about ${t} bpp`, i)));
  target.value = Math.floor((targets.length - 1) / 2);
  for (const choice of [picture, target, left, right]) choice.addEventListener("change", update);
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
})();
