// The threads of a kernel are torch's own: those of the OpenMP library that it has loaded. Threads beside them would share their
// cores with torch's, which spin for a while when they have nothing to do.
#pragma once
#include <dlfcn.h>

#include <atomic>
#include <thread>
#include <vector>

// Runs a function on as many threads, the calling one among them: OpenMP's own libraries all have it under libgomp's name.
using Team = void (*)(void (*function)(void*), void* argument, unsigned threads, unsigned flags);

inline Team team_of_torch() {
  static const Team team = reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return team;
}

// Calls part(parts - 1) to part(0), each once, and all at the same time if there are threads enough: a part may wait for a later
// one, which has begun before it.
template <class Part>
inline void in_parallel(int parts, Part part) {
  if (parts == 1) return part(0);
  struct Work {
    Part& part;
    std::atomic<int> left;
  } work{part, {parts}};
  const auto take = [](void* argument) {
    Work& shared = *static_cast<Work*>(argument);
    for (int mine; (mine = --shared.left) >= 0;) shared.part(mine);
  };
  if (const Team team = team_of_torch()) return team(take, &work, static_cast<unsigned>(parts), 0);
  std::vector<std::thread> threads;
  for (int other = 1; other < parts; other++) threads.emplace_back(take, &work);
  take(&work);
  for (auto& thread : threads) thread.join();
}
