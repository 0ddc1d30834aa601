// CLIP's byte-pair encoding: lower case, pieces by a pattern, bytes as letters, merges in the order they were learnt.
"use strict";

const PIECES = /<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;
const STRAIGHT = { "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"' };

class Tokenizer {
  // `merges`: a pair on each line, parted by a space. `unescape` turns HTML's entities into what they stand for.
  constructor(merges, unescape = (text) => text) {
    this.unescape = unescape;
    this.letters = byteLetters();
    const pairs = merges.split("\n");
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    const words = [...byteOrder().map((byte) => this.letters[byte])];
    const vocabulary = [...words, ...words.map((word) => word + "</w>"), ...pairs.map((pair) => pair.replace(" ", ""))];
    this.start = vocabulary.length;
    this.end = this.start + 1;
    this.ids = new Map([...vocabulary, "<start_of_text>", "<end_of_text>"].map((word, id) => [word, id]));
  }

  // Token ids of a text in a row of `context`: a text that is too long loses its end, not its end-of-text.
  encode(text, context) {
    const ids = [this.start];
    for (const piece of this.clean(text).match(PIECES) ?? []) {
      const whole = this.ids.get(piece);
      if (whole === this.start || whole === this.end) {
        ids.push(whole);
        continue;
      }
      const letters = Array.from(new TextEncoder().encode(piece), (byte) => this.letters[byte]);
      ids.push(...this.merge(letters).map((part) => this.ids.get(part)));
    }
    const row = new Int32Array(context);
    row.set([...ids, this.end].slice(0, context));
    if (ids.length + 1 > context) row[context - 1] = this.end;
    return row;
  }

  clean(text) {
    const plain = text.normalize("NFC").replace(/[\u2018-\u201e]/g, (quote) => STRAIGHT[quote] ?? quote);
    return this.unescape(this.unescape(plain)).replace(/\s+/g, " ").trim().toLowerCase();
  }

  merge(letters) {
    const parts = [...letters.slice(0, -1), letters[letters.length - 1] + "</w>"];
    for (;;) {
      let best = Infinity, place = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
        if (rank !== undefined && rank < best) [best, place] = [rank, i];
      }
      if (place < 0) return parts;
      const [first, second] = [parts[place], parts[place + 1]];
      for (let i = place; i + 1 < parts.length; i++) {
        if (parts[i] === first && parts[i + 1] === second) parts.splice(i, 2, first + second);
      }
    }
  }
}

// Bytes in the vocabulary's order: those with a visible letter first.
function byteOrder() {
  const range = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => first + i);
  const visible = [...range(33, 126), ...range(161, 172), ...range(174, 255)];
  return [...visible, ...range(0, 255).filter((byte) => !visible.includes(byte))];
}

// A letter for each byte: itself where it is visible, and from U+0100 on where it is not.
function byteLetters() {
  const letters = [];
  byteOrder().forEach((byte, place) => {
    letters[byte] = String.fromCodePoint(place < 188 ? byte : 256 + place - 188);
  });
  return letters;
}
