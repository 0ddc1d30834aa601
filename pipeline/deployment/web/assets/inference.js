// What is inside this file, unpacked: runtime, models, vectors. Nothing is asked of the network.
"use strict";

const ABOUT = JSON.parse(document.getElementById("about").textContent);

function packedBytes(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpack(id) {
  const stream = new Blob([packedBytes(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function startRuntime() {
  const glue = new Blob([await unpack("glue")], { type: "text/javascript" });
  ort.env.wasm.numThreads = 1; // more would need SharedArrayBuffer, which a file on disk does not have
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
  ort.env.wasm.wasmBinary = await unpack("runtime");
}

class Student {
  static async load(about, place) {
    const student = new Student();
    student.about = about;
    student.session = await ort.InferenceSession.create(new Uint8Array(await unpack(`model-${place}`)));
    if (about.context) {
      student.text = await ort.InferenceSession.create(new Uint8Array(await unpack(`text-${place}`)));
    }
    await student.embed(new Uint8Array(about.size * about.size * 3)); // the first run allocates
    return student;
  }

  // Bytes of a square picture to its embedding, and the milliseconds that took.
  async embed(pixels) {
    const { size } = this.about;
    const start = performance.now();
    const { embedding } = await this.session.run({ image: new ort.Tensor("uint8", pixels, [1, size, size, 3]) });
    return { embedding: embedding.data, milliseconds: performance.now() - start };
  }

  // Texts to unit vectors, one after the other in one array.
  async embedTexts(texts, tokenizer) {
    const { context } = this.about;
    const tokens = new Int32Array(texts.length * context);
    texts.forEach((text, row) => tokens.set(tokenizer.encode(text, context), row * context));
    const { text_embedding: embedding } = await this.text.run({ tokens: new ort.Tensor("int32", tokens, [texts.length, context]) });
    const dim = embedding.dims[1], rows = new Float32Array(embedding.data.length);
    texts.forEach((_, row) => rows.set(unit(embedding.data.subarray(row * dim, (row + 1) * dim)), row * dim));
    return rows;
  }
}

// The bytes of the center square of a decoded picture, on white where it is transparent.
function squarePixels(bitmap, size) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  return centerSquare(bitmap.width, bitmap.height, size, (left, top, columns, rows) => {
    [canvas.width, canvas.height] = [columns, rows];
    context.fillStyle = "white";
    context.fillRect(0, 0, columns, rows);
    context.drawImage(bitmap, left, top, columns, rows, 0, 0, columns, rows);
    return context.getImageData(0, 0, columns, rows).data;
  });
}

// Decoded as Pillow decodes it: turned by EXIF, colors as they are in the file.
function decodePicture(blob) {
  return createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
}

function unescapeEntities(text) {
  const area = document.createElement("textarea");
  area.innerHTML = text.replaceAll("<", "&lt;");
  return area.value;
}
