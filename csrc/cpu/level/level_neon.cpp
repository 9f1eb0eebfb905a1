#define TSM_LEVEL neon
#define TSM_NAME "neon"
#define TSM_VECTOR_BYTES 16
#include "cpu/level/level.inl"
