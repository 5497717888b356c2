/* Lets redis-server have the time that a file tells, in microseconds since 1970. libfaketime cannot: it and jemalloc wait for each
   other while the server starts. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  char text[32] = {0};
  (void)zone;
  int file = open(getenv("TOLD_TIME"), O_RDONLY);
  if (file < 0 || read(file, text, sizeof text - 1) <= 0) abort();
  close(file);
  long long microseconds = atoll(text);
  now->tv_sec = microseconds / 1000000;
  now->tv_usec = microseconds % 1000000;
  return 0;
}
