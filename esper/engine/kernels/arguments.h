// Arguments are structs with a twin in Python, which compares their fields, in order, when it loads the library.
#pragma once
#include <cstdint>

#define DECLARE_INTEGER(name) int64_t name;
#define DECLARE_REAL(name) double name;
#define DECLARE_POINTER(name) void* name;
#define SPELL_INTEGER(name) "integers " #name ";"
#define SPELL_REAL(name) "reals " #name ";"
#define SPELL_POINTER(name) "pointers " #name ";"
