// What a seed does to the features of its slot: bounding and blending, forward and back.
#pragma once
#include <cstring>

#include "arguments.h"
#include "vectors.h"

// A row is [size, samples]. alpha: [rows, samples] where it is per sample, else [rows]. kept: [rows, 2, samples].
// straight_through: [rows], 1 where the gradient passes straight to the seed. is_finite: [rows], 1 where the seed is finite.
#define SEED_FIELDS(INTEGER, REAL, POINTER)                                                           \
  INTEGER(rows) INTEGER(size) INTEGER(samples) INTEGER(alpha_per_sample) INTEGER(threads)             \
  REAL(max_ratio) REAL(eps)                                                                           \
  POINTER(x) POINTER(delta) POINTER(out) POINTER(kept) POINTER(alpha) POINTER(straight_through) POINTER(is_finite)    \
  POINTER(grad_out) POINTER(grad_x) POINTER(grad_delta) POINTER(grad_alpha)

struct Seed { SEED_FIELDS(DECLARE_INTEGER, DECLARE_REAL, DECLARE_POINTER) };

// out = x + delta / sqrt(1 + |delta|^2 / (max_ratio^2 |x|^2 + eps)), norms per sample.
template <class V, class T> void bound_lanes(const Seed& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.size * n + s;
  const T *x = (const T*)p.x + base, *d = (const T*)p.delta + base;
  T *out = (T*)p.out + base, *kept = (T*)p.kept + r * 2 * n + s;
  V xx = {}, dd = {};
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V xv = load<V>(x + j), dv = load<V>(d + j);
    xx += xv * xv;
    dd += dv * dv;
  }
  const V limit = xx * T(p.max_ratio * p.max_ratio) + T(p.eps), q = dd / limit;
  const V scale = inverse_root<T>(1 + q);
  for (int64_t j = 0; j < p.size * n; j += n) store<V>(out + j, load<V>(x + j) + load<V>(d + j) * scale);
  store<V>(kept, scale);
  store<V>(kept + n, limit);
}

template <class V, class T> void bound_lanes_backward(const Seed& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.size * n + s;
  const T *x = (const T*)p.x + base, *d = (const T*)p.delta + base, *g = (const T*)p.grad_out + base;
  const T* kept = (const T*)p.kept + r * 2 * n + s;
  T *gx = (T*)p.grad_x + base, *gd = (T*)p.grad_delta + base;
  const V scale = load<V>(kept), limit = load<V>(kept + n);
  V along = {}, dd = {};
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V dv = load<V>(d + j);
    along += load<V>(g + j) * dv;
    dd += dv * dv;
  }
  const V slope = along * scale * scale * scale / limit;
  const V inward = slope * dd * T(p.max_ratio * p.max_ratio) / limit;
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V gv = load<V>(g + j);
    store<V>(gd + j, gv * scale - load<V>(d + j) * slope);
    store<V>(gx + j, gv + load<V>(x + j) * inward);
  }
}

// out = x + alpha (delta - x), delta being the seed's output; rows that are not finite give x.
template <class V, class T> void blend_lanes(const Seed& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.size * n + s;
  const T *x = (const T*)p.x + base, *seed = (const T*)p.delta + base;
  T* out = (T*)p.out + base;
  V alpha = V{} + ((const T*)p.alpha)[p.alpha_per_sample ? 0 : r];
  if (p.alpha_per_sample) alpha = load<V>((const T*)p.alpha + r * n + s);
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V xv = load<V>(x + j);
    store<V>(out + j, xv + alpha * (load<V>(seed + j) - xv));
  }
}

template <class V, class T> void blend_lanes_backward(const Seed& p, int64_t r, int64_t s) {
  const int64_t n = p.samples, base = r * p.size * n + s;
  const T *x = (const T*)p.x + base, *seed = (const T*)p.delta + base, *g = (const T*)p.grad_out + base;
  T *gx = (T*)p.grad_x + base, *gs = (T*)p.grad_delta + base;
  V alpha = V{} + ((const T*)p.alpha)[p.alpha_per_sample ? 0 : r], along = {};
  if (p.alpha_per_sample) alpha = load<V>((const T*)p.alpha + r * n + s);
  const V seedward = alpha + ((const T*)p.straight_through)[r];
  for (int64_t j = 0; j < p.size * n; j += n) {
    const V gv = load<V>(g + j);
    store<V>(gx + j, gv * (T(1) - alpha));
    store<V>(gs + j, gv * seedward);
    if (p.grad_alpha) along += gv * (load<V>(seed + j) - load<V>(x + j));
  }
  if (p.grad_alpha) store<V>((T*)p.grad_alpha + r * n + s, along);
}

template <class T> bool row_is_finite(const T* p, int64_t count) {
  Vec<T> nothing = {};  // x * 0 is 0 for a finite x, NaN otherwise
  T rest = 0;
  int64_t j = 0;
  for (; j + kLanes<T> <= count; j += kLanes<T>) nothing += load<Vec<T>>(p + j) * T(0);
  for (; j < count; ++j) rest += p[j] * T(0);
  return lane_sum<T>(nothing) + rest == 0;
}

template <class T, void (*wide)(const Seed&, int64_t, int64_t), void (*narrow)(const Seed&, int64_t, int64_t)>
void every_lane(const Seed& p, int64_t r) {
  int64_t s = 0;
  for (; s + kLanes<T> <= p.samples; s += kLanes<T>) wide(p, r, s);
  for (; s < p.samples; ++s) narrow(p, r, s);
}

template <class T> void bound_forward(const Seed& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) every_lane<T, bound_lanes<Vec<T>, T>, bound_lanes<T, T>>(p, r);
}

template <class T> void bound_backward(const Seed& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) every_lane<T, bound_lanes_backward<Vec<T>, T>, bound_lanes_backward<T, T>>(p, r);
}

template <class T> void blend_forward(const Seed& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t count = p.size * p.samples;
    T& is_finite = ((T*)p.is_finite)[r];
    is_finite = row_is_finite((const T*)p.delta + r * count, count);
    if (is_finite) every_lane<T, blend_lanes<Vec<T>, T>, blend_lanes<T, T>>(p, r);
    else std::memcpy((T*)p.out + r * count, (const T*)p.x + r * count, count * sizeof(T));
  }
}

template <class T> void blend_backward(const Seed& p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t count = p.size * p.samples;
    if (((const T*)p.is_finite)[r]) {
      every_lane<T, blend_lanes_backward<Vec<T>, T>, blend_lanes_backward<T, T>>(p, r);
      continue;
    }
    std::memcpy((T*)p.grad_x + r * count, (const T*)p.grad_out + r * count, count * sizeof(T));
    std::memset((T*)p.grad_delta + r * count, 0, count * sizeof(T));
    if (p.grad_alpha) std::memset((T*)p.grad_alpha + r * p.samples, 0, p.samples * sizeof(T));
  }
}
