#define TSM_LEVEL avx2
#define TSM_NAME "avx2"
#define TSM_VECTOR_BYTES 32
#include "cpu/level/level.inl"
