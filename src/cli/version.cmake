# Writes chipline_version.h when the revision changed.
set(rev "unknown")
if(GIT)
  execute_process(COMMAND ${GIT} -C ${SRC} describe --always --dirty --abbrev=12 
    OUTPUT_VARIABLE rev OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_QUIET RESULT_VARIABLE rc)
  if(NOT rc EQUAL 0)
    set(rev "unknown")
  endif()
endif()
set(text "#define CL_VERSION \"${VERSION}\"\n#define CL_REVISION \"${rev}\"\n#define CL_BUILD_FLAGS \"${FLAGS}\"\n")
set(old "")
if(EXISTS ${OUT})
  file(READ ${OUT} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${OUT} "${text}")
endif()
