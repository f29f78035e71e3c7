// Layer norm and ReLU of the vectors of one network, forward and back.
#pragma once
#include "activation.h"
#include "arguments.h"
#include "vectors.h"

// A row is [width, samples]. gamma, beta: [rows, width], null where the norm has none. kept: [rows, 2, samples], means
// and inverse deviations.
#define LAYERNORM_FIELDS(INTEGER, REAL, POINTER)                                  \
  INTEGER(rows) INTEGER(width) INTEGER(samples) INTEGER(relu) INTEGER(threads)    \
  REAL(eps)                                                                       \
  POINTER(x) POINTER(gamma) POINTER(beta) POINTER(kept) POINTER(out)              \
  POINTER(grad_out) POINTER(grad_x) POINTER(grad_gamma) POINTER(grad_beta)

struct LayerNorm { LAYERNORM_FIELDS(DECLARE_INTEGER, DECLARE_REAL, DECLARE_POINTER) };

template <class T> T* own(void* all, const LayerNorm& p, int64_t r) { return all ? (T*)all + r * p.width : nullptr; }

template <class V, class T> void layer_norm_lanes(const LayerNorm& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.width * n + s;
  const T *x = (const T*)p.x + base, *gamma = own<T>(p.gamma, p, r), *beta = own<T>(p.beta, p, r);
  T *out = (T*)p.out + base, *kept = (T*)p.kept + r * 2 * n + s;
  V mean = {}, variance = {};
  for (int64_t c = 0; c < p.width; ++c) mean += load<V>(x + c * n);
  mean /= T(p.width);
  for (int64_t c = 0; c < p.width; ++c) {
    const V d = load<V>(x + c * n) - mean;
    variance += d * d;
  }
  const V scale = inverse_root<T>(variance / T(p.width) + T(p.eps));
  for (int64_t c = 0; c < p.width; ++c) {
    V z = (load<V>(x + c * n) - mean) * scale;
    if (gamma) z *= gamma[c];
    if (beta) z += beta[c];
    store<V>(out + c * n, activate<V, T>(z, p.relu));
  }
  store<V>(kept, mean);
  store<V>(kept + n, scale);
}

// Adds to each channel's sums the gradients of beta and gamma.
template <class V, class T>
void layer_norm_lanes_backward(const LayerNorm& p, int64_t r, int64_t s, ChannelSums<T>* sums) {
  const int64_t n = p.samples, base = r * p.width * n + s;
  const T *x = (const T*)p.x + base, *out = (const T*)p.out + base, *g = (const T*)p.grad_out + base;
  const T *gamma = own<T>(p.gamma, p, r), *kept = (const T*)p.kept + r * 2 * n + s;
  T* gx = (T*)p.grad_x + base;
  const V mean = load<V>(kept), scale = load<V>(kept + n);
  V total = {}, along = {};
  for (int64_t c = 0; c < p.width; ++c) {
    V gv = load<V>(g + c * n);
    if (p.relu) gv = load<V>(out + c * n) <= T(0) ? V{} : gv;
    const V normed = (load<V>(x + c * n) - mean) * scale;
    add_to<T>(sums[c], gv, V(gv * normed));
    if (gamma) gv *= gamma[c];
    total += gv;
    along += gv * normed;
    store<V>(gx + c * n, gv);
  }
  total /= T(p.width);
  along /= T(p.width);
  for (int64_t c = 0; c < p.width; ++c) {
    const V normed = (load<V>(x + c * n) - mean) * scale;
    store<V>(gx + c * n, (load<V>(gx + c * n) - total - normed * along) * scale);
  }
}

template <class T> void layer_norm_forward(const LayerNorm& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) {
    int64_t s = 0;
    for (; s + kLanes<T> <= p.samples; s += kLanes<T>) layer_norm_lanes<Vec<T>, T>(p, r, s);
    for (; s < p.samples; ++s) layer_norm_lanes<T, T>(p, r, s);
  }
}

template <class T> void layer_norm_backward(const LayerNorm& p) {
#pragma omp parallel num_threads(p.threads)
  {
    static thread_local Scratch<ChannelSums<T>> memory;
    ChannelSums<T>* sums = memory.get(p.width);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < p.rows; ++r) {
      for (int64_t c = 0; c < p.width; ++c) sums[c] = {};
      int64_t s = 0;
      for (; s + kLanes<T> <= p.samples; s += kLanes<T>) layer_norm_lanes_backward<Vec<T>, T>(p, r, s, sums);
      for (; s < p.samples; ++s) layer_norm_lanes_backward<T, T>(p, r, s, sums);
      for (int64_t c = 0; c < p.width; ++c) {
        if (p.grad_beta) ((T*)p.grad_beta)[r * p.width + c] = lane_sum<T>(sums[c].first) + sums[c].first_rest;
        if (p.grad_gamma) ((T*)p.grad_gamma)[r * p.width + c] = lane_sum<T>(sums[c].second) + sums[c].second_rest;
      }
    }
  }
}
