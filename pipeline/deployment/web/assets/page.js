// The page: pictures come in by dialog, drop, clipboard or camera; what students say of them goes out as bars and tiles.
"use strict";

const SHOWN_LABELS = 5, SHOWN_IMAGES = 8, SHOWN_CAPTIONS = 3;
const LARGEST_PREVIEW = 320; // pixels of the longer side
const byId = (id) => document.getElementById(id);

// Everything that was looked at, for whoever wants the numbers: `demo.looks` in the browser's console.
const demo = { students: [], looks: [], labels: [], tokenizer: null, gallery: null, ready: false };
window.demo = demo;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(text) {
  byId("status").textContent = text;
}

function complain(text) {
  byId("problem").textContent = text;
}

async function start() {
  say("Unpacking the model …");
  await startRuntime();
  for (const [place, about] of ABOUT.students.entries()) demo.students.push(await Student.load(about, place));
  if (ABOUT.students.some((about) => about.context)) {
    demo.tokenizer = new Tokenizer(new TextDecoder().decode(await unpack("merges")), unescapeEntities);
  }
  if (ABOUT.labels) {
    const rows = new Float32Array(await unpack("label-vectors"));
    demo.labels = demo.students.map(() => ({ ...ABOUT.labels, rows }));
  }
  if (ABOUT.gallery) await openGallery();
  byId("labels-form").hidden = !demo.tokenizer;
  byId("words-form").hidden = !(demo.tokenizer && demo.gallery);
  byId("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  document.querySelectorAll("main [disabled]").forEach((control) => { control.disabled = false; });
  demo.ready = true;
  say("Ready. Nothing that you show it leaves this page.");
}

// Pictures

async function lookAtFiles(files) {
  complain("");
  for (const file of files) {
    say(`Looking at ${file.name} …`);
    let bitmap;
    try {
      bitmap = await decodePicture(file);
    } catch {
      complain(`${file.name}: not a picture that this browser can read.`);
      continue;
    }
    await look(bitmap, file.name);
    bitmap.close();
  }
  say(files.length ? "Done." : "");
}

async function look(bitmap, name, replaced = null) {
  const seen = { name, width: bitmap.width, height: bitmap.height, answers: [] };
  for (const student of demo.students) {
    const pixels = squarePixels(bitmap, student.about.size);
    seen.answers.push({ ...(await student.embed(pixels)), pixels });
  }
  demo.looks.push(seen);
  seen.card = element("article", { className: "look" }, preview(bitmap, name), element("div", { className: "told" }));
  show(seen);
  if (replaced?.isConnected) replaced.replaceWith(seen.card);
  else byId("looks").prepend(seen.card);
  return seen.card;
}

function preview(bitmap, name) {
  const scale = Math.min(1, LARGEST_PREVIEW / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = element("canvas", { width, height });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return element("figure", {}, canvas, element("figcaption", { textContent: `${name}, ${bitmap.width} × ${bitmap.height}` }));
}

function show(seen) {
  const answers = element("div", { className: "answers" });
  seen.answers.forEach((answer, place) => answers.append(labelBars(answer, place)));
  const told = [answers];
  if (demo.gallery) {
    told.push(...neighbors(seen, "Images like this one", demo.gallery.images, SHOWN_IMAGES, imageTiles));
    if (demo.gallery.captions.texts.length) {
      told.push(...neighbors(seen, "Captions that fit", demo.gallery.captions, SHOWN_CAPTIONS, captionList));
    }
  }
  seen.card.lastElementChild.replaceChildren(...told);
}

function labelBars(answer, place) {
  const { name } = demo.students[place].about, labels = demo.labels[place];
  const heading = element("h3", { textContent: `${name} ` }, element("small", { textContent: `${answer.milliseconds.toFixed(1)} ms` }));
  if (!labels) return element("section", {}, heading, element("p", { textContent: "No labels in this file." }));
  answer.probabilities = probabilities(answer.embedding, labels.rows, labels.scale);
  const bars = largest(answer.probabilities, SHOWN_LABELS).map((c) => bar(labels.names[c], answer.probabilities[c]));
  return element("section", {}, heading, element("ol", { className: "bars" }, ...bars));
}

function bar(name, share) {
  const fill = element("span", { className: "fill" });
  fill.style.width = `${(100 * share).toFixed(2)}%`;
  const percent = element("span", { className: "share", textContent: `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %` });
  const track = element("span", { className: "track", ariaHidden: "true" }, fill);
  return element("li", {}, element("span", { className: "name", textContent: name }), track, percent);
}

// Gallery

async function openGallery() {
  const rows = async (name) => ({
    bytes: new Int8Array(await unpack(`${name}-bytes`)),
    scales: new Float32Array(await unpack(`${name}-scales`)),
  });
  const { images, captions, split } = ABOUT.gallery;
  demo.gallery = {
    images: { ...(await rows("gallery-images")), shown: images },
    captions: captions.length ? { ...(await rows("gallery-captions")), texts: captions } : { texts: [] },
  };
  byId("gallery-split").textContent = split;
  byId("gallery").hidden = false;
  byId("gallery-tiles").append(...images.slice(0, 24).map((_, place) => imageButton(place)));
}

function neighbors(seen, title, rows, count, list) {
  const several = seen.answers.length > 1;
  const found = seen.answers.map((answer, place) => {
    const cosines = quantizedCosines(answer.embedding, rows.bytes, rows.scales);
    const best = largest(cosines, count);
    const who = several ? [element("span", { className: "who", textContent: demo.students[place].about.name })] : [];
    return element("div", { className: "found" }, ...who, list(best, cosines));
  });
  return [element("h3", { textContent: title }), ...found];
}

function imageTiles(places, cosines) {
  return element("div", { className: "tiles" }, ...places.map((place) => imageButton(place, cosines[place])));
}

function captionList(places, cosines) {
  const { texts } = demo.gallery.captions;
  return element("ol", { className: "captions" }, ...places.map((place) =>
    element("li", { textContent: `${texts[place]} ` }, element("small", { textContent: cosines[place].toFixed(2) }))));
}

// An image of the gallery, which is looked at when it is pressed.
function imageButton(place, cosine) {
  const { image, text } = demo.gallery.images.shown[place];
  const words = cosine === undefined ? [] : [element("small", { textContent: cosine.toFixed(2) })];
  const button = element("button", { type: "button", className: "tile" },
    element("img", { src: image, alt: text, loading: "lazy", width: 96, height: 96 }), ...words);
  button.title = text;
  button.setAttribute("aria-label", `Look at: ${text}`);
  button.addEventListener("click", async () => {
    complain("");
    const card = await look(await decodePicture(await pictureOf(image)), text);
    card.scrollIntoView({ block: "nearest" });
    say(`Looked at ${text}.`);
  });
  return button;
}

async function pictureOf(address) {
  const [head, body] = address.split(",");
  const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: head.slice(5).split(";")[0] });
}

// Words

async function readLabels(text) {
  const names = splitLabels(text);
  if (!names.length) return complain("Type labels, parted by commas.");
  complain("");
  const prompts = names.map((name) => ABOUT.prompt.replace("{c}", () => name));
  for (const [place, student] of demo.students.entries()) {
    if (!student.text) continue;
    const rows = await student.embedTexts(prompts, demo.tokenizer);
    demo.labels[place] = { names, rows, scale: ABOUT.scale };
  }
  demo.looks.forEach(show);
  say(`${names.length} labels read.`);
}

async function searchWords(text) {
  if (!text.trim()) return;
  const found = [];
  for (const student of demo.students.filter((each) => each.text)) {
    const query = await student.embedTexts([text.trim()], demo.tokenizer);
    const cosines = quantizedCosines(query, demo.gallery.images.bytes, demo.gallery.images.scales);
    const who = demo.students.length > 1 ? [element("span", { className: "who", textContent: student.about.name })] : [];
    found.push(element("div", { className: "found" }, ...who, imageTiles(largest(cosines, SHOWN_IMAGES), cosines)));
  }
  byId("words-found").replaceChildren(...found);
  say(`Nearest images to “${text.trim()}”.`);
}

// Camera

const camera = { stream: null, card: null, timer: 0 };

async function openCamera() {
  complain("");
  try {
    camera.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const reasons = { NotAllowedError: "this browser was not allowed to use it", NotFoundError: "there is none" };
    complain(`The camera cannot be used: ${reasons[error.name] ?? error.message}. Pictures from files work as before.`);
    return;
  }
  byId("video").srcObject = camera.stream;
  await byId("video").play();
  byId("camera-view").hidden = false;
}

function closeCamera() {
  clearTimeout(camera.timer);
  camera.stream?.getTracks().forEach((track) => track.stop());
  Object.assign(camera, { stream: null, card: null });
  byId("camera-view").hidden = true;
}

// Once, or again and again into one card while `keep looking` is on.
async function lookThroughCamera() {
  clearTimeout(camera.timer);
  if (!camera.stream) return;
  const live = byId("live").checked, replaced = live ? camera.card : null;
  const bitmap = await createImageBitmap(byId("video"));
  const card = await look(bitmap, "Camera", replaced);
  bitmap.close();
  if (replaced) demo.looks = demo.looks.filter((seen) => seen.card !== replaced);
  camera.card = live ? card : null;
  if (live && camera.stream) camera.timer = setTimeout(lookThroughCamera, 100);
}

// Controls

function listen() {
  byId("files").addEventListener("change", async (event) => {
    await lookAtFiles([...event.target.files]);
    event.target.value = ""; // the same file may be chosen again
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (demo.ready) lookAtFiles([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (demo.ready && files.length) lookAtFiles(files);
  });
  const submit = (form, use) => byId(form).addEventListener("submit", (event) => {
    event.preventDefault();
    use(new FormData(event.target).get("text"));
  });
  submit("labels-form", readLabels);
  submit("words-form", searchWords);
  byId("camera").addEventListener("click", openCamera);
  byId("camera-stop").addEventListener("click", closeCamera);
  byId("camera-look").addEventListener("click", lookThroughCamera);
  byId("live").addEventListener("change", (event) => event.target.checked && lookThroughCamera());
}

listen();
start().catch((error) => {
  say("");
  complain(`The model could not be started: ${error.message ?? error}`);
});
