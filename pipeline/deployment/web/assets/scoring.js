// Cosines, probabilities and neighbours: CLIP's own scoring rule over unit vectors.
"use strict";

function unit(vector) {
  let square = 0;
  for (const value of vector) square += value * value;
  const length = Math.max(Math.sqrt(square), 1e-38);
  return Float32Array.from(vector, (value) => value / length);
}

// softmax(scale * cosines) of unit vectors against the rows of a matrix of unit vectors.
function probabilities(embedding, rows, scale) {
  const query = unit(embedding), scores = [];
  for (let start = 0; start < rows.length; start += query.length) {
    let dot = 0;
    for (let i = 0; i < query.length; i++) dot += query[i] * rows[start + i];
    scores.push(scale * dot);
  }
  const top = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - top));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

// Cosines with rows that are kept as bytes: row = scale * bytes.
function quantizedCosines(embedding, bytes, scales) {
  const query = unit(embedding), dim = query.length;
  return Array.from(scales, (scale, row) => {
    let dot = 0;
    for (let i = 0; i < dim; i++) dot += query[i] * bytes[row * dim + i];
    return scale * dot;
  });
}

// The places of the largest values, largest first; of equal ones the earlier first.
function largest(values, count) {
  const order = Array.from(values, (_, place) => place);
  return order.sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
}

// Labels as they are typed: parted by commas or lines, each once.
function splitLabels(text) {
  return [...new Set(text.split(/[,\n]/).map((name) => name.trim()).filter(Boolean))];
}
