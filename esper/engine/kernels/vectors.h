// One vector of samples at a time: what kernels compute with, whatever the processor's vectors are.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kChannelTile = 4;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kChannelTile = 2;
#else
constexpr int kVectorBytes = 16, kChannelTile = 4;
#endif

template <class T> struct Lanes;
template <> struct Lanes<float> { typedef float V __attribute__((vector_size(kVectorBytes))); };
template <> struct Lanes<double> { typedef double V __attribute__((vector_size(kVectorBytes))); };
template <class T> using Vec = typename Lanes<T>::V;
template <class T> constexpr int kLanes = kVectorBytes / sizeof(T);

// Rows of samples are not aligned to vectors; memcpy becomes one unaligned move.
template <class V, class T> inline V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}
template <class V, class T> inline void store(T* p, V v) { std::memcpy(p, &v, sizeof(V)); }

// The same value, in a register where there are 32 of them. Compilers load a value that several products share again for
// each of them, as if operands in memory were free; but loads are as scarce as products.
template <class V> inline V held(V v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

template <class T> inline T lane_sum(T v) { return v; }
template <class T> inline T lane_sum(Vec<T> v) {
  T total = 0;
  for (int l = 0; l < kLanes<T>; ++l) total += v[l];
  return total;
}

template <class T> inline T inverse_root(T v) { return 1 / std::sqrt(v); }
template <class T> inline Vec<T> inverse_root(Vec<T> v) {
  for (int l = 0; l < kLanes<T>; ++l) v[l] = 1 / std::sqrt(v[l]);
  return v;
}

// Memory of a thread's own, kept from call to call: a fresh piece costs a page fault for every four kilobytes. It begins
// with a line of the cache, so that no vector lies across two.
template <class T> class Scratch {
 public:
  T* get(size_t count) {
    if (count > count_) memory_.reset(new Line[(count_ = count) * sizeof(T) / sizeof(Line) + 1]);
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::unique_ptr<Line[]> memory_;
  size_t count_ = 0;
};

// Sums over a channel's values less `shift`, of them and of their squares, taken while they are still in registers. Any
// value of the channel will do as the shift: it only has to lie near the mean.
template <class T> struct ChannelSums {
  Vec<T> first = {}, second = {};
  T first_rest = 0, second_rest = 0, shift = 0;
};

template <class T> inline void add_to(ChannelSums<T>& sums, Vec<T> first, Vec<T> second) {
  sums.first += first;
  sums.second += second;
}
template <class T> inline void add_to(ChannelSums<T>& sums, T first, T second) {
  sums.first_rest += first;
  sums.second_rest += second;
}

template <class T> inline void moments_of(const ChannelSums<T>& sums, int64_t count, T& mean, T& variance) {
  const T first = (lane_sum<T>(sums.first) + sums.first_rest) / count;
  const T second = (lane_sum<T>(sums.second) + sums.second_rest) / count;
  mean = sums.shift + first;
  variance = second - first * first;
  if (variance < 0) variance = 0;
}
