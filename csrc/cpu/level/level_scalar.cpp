#define TSM_LEVEL scalar
#define TSM_NAME "scalar"
#define TSM_VECTOR_BYTES 16
#include "cpu/level/level.inl"
