#include <iostream>

#include "client/cli/app.h"

int main(int argc, char** argv) { return attune::RunCli(argc, argv, std::cout, std::cerr, std::cin); }
